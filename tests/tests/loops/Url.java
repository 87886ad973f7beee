import java.net.HttpURLConnection;
import java.net.URL;

/** HttpURLConnection: connections that are kept, other traffic, and one request that is never answered. */
public class Url {
    static void get(String address, String path) throws Exception {
        HttpURLConnection connection = (HttpURLConnection) new URL("http://" + address + path).openConnection();
        connection.getInputStream().readAllBytes();
    }

    public static void main(String[] args) throws Exception {
        Thread other = new Thread(() -> {
            while (true) {
                try {
                    get(args[1], "/");
                    Thread.sleep(300);
                } catch (Exception error) {
                    throw new RuntimeException(error);
                }
            }
        });
        other.setDaemon(true);
        other.start();
        get(args[0], "/a");
        Thread.sleep(2000);
        get(args[0], "/hang");
    }
}
