import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.concurrent.CompletableFuture;

/** Java's HttpClient: a pool with an idle connection, other traffic, and one request that is never answered. */
class Http {
    private static final HttpClient CLIENT = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

    private static CompletableFuture<?> get(String where, String path) {
        HttpRequest request = HttpRequest.newBuilder(URI.create("http://" + where + path)).build();
        return CLIENT.sendAsync(request, BodyHandlers.ofString());
    }

    public static void main(String[] args) throws Exception {
        String mute = args[0], healthy = args[1];
        Thread other = new Thread(() -> {
            try {
                while (true) {
                    get(healthy, "/").join();
                    Thread.sleep(300);
                }
            } catch (InterruptedException error) {
                throw new IllegalStateException(error);
            }
        });
        other.setDaemon(true);
        other.start();
        CompletableFuture.allOf(get(mute, "/a"), get(mute, "/b")).join();
        Thread.sleep(2000);
        get(mute, "/hang").join();
    }
}
