import io.netty.bootstrap.Bootstrap;
import io.netty.channel.Channel;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.EventLoopGroup;
import io.netty.channel.SimpleChannelInboundHandler;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.channel.socket.nio.NioSocketChannel;
import io.netty.handler.codec.http.DefaultFullHttpRequest;
import io.netty.handler.codec.http.HttpClientCodec;
import io.netty.handler.codec.http.HttpMethod;
import io.netty.handler.codec.http.HttpObject;
import io.netty.handler.codec.http.HttpVersion;

/** Netty, of which Vert.x, Lettuce and gRPC for Java are made: a pool with an idle connection, other traffic, and one request that is never answered. */
public class Netty {
    static Channel open(EventLoopGroup loops, String address) throws Exception {
        String[] parts = address.split(":");
        ChannelInitializer<Channel> pipeline = new ChannelInitializer<>() {
            protected void initChannel(Channel channel) {
                channel.pipeline().addLast(new HttpClientCodec(), new SimpleChannelInboundHandler<HttpObject>() {
                    protected void channelRead0(ChannelHandlerContext context, HttpObject part) {}
                });
            }
        };
        Bootstrap client = new Bootstrap().group(loops).channel(NioSocketChannel.class).handler(pipeline);
        return client.connect(parts[0], Integer.parseInt(parts[1])).sync().channel();
    }

    static void get(Channel channel, String path) {
        DefaultFullHttpRequest request = new DefaultFullHttpRequest(HttpVersion.HTTP_1_1, HttpMethod.GET, path);
        request.headers().set("Host", "x");
        channel.writeAndFlush(request);
    }

    public static void main(String[] args) throws Exception {
        EventLoopGroup loops = new NioEventLoopGroup(2);
        Channel other = open(loops, args[1]);
        Channel[] pool = {open(loops, args[0]), open(loops, args[0])};
        get(pool[0], "/a");
        get(pool[1], "/b");
        for (int round = 0; ; round++) {
            get(other, "/");
            if (round == 7) {
                get(pool[0], "/hang");
            }
            Thread.sleep(300);
        }
    }
}
