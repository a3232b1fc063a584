// SPDX-License-Identifier: Apache-2.0
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.atomic.AtomicLong;

/** Passes bytes between clients and the gateway, counts them, can lose what the gateway says and break the connections. */
final class Relay implements AutoCloseable {
    final AtomicLong sent = new AtomicLong();
    final AtomicLong received = new AtomicLong();
    /** What the gateway says gets lost. */
    volatile boolean silent;
    private final ServerSocket listener;
    private final Queue<Socket> sockets = new ConcurrentLinkedQueue<>();

    Relay(String host, int port) throws IOException {
        listener = new ServerSocket(0, 10, InetAddress.getByName("127.0.0.1"));
        start(() -> {
            while (true) {
                Socket client = listener.accept();
                Socket gateway = new Socket(host, port);
                client.setTcpNoDelay(true);
                gateway.setTcpNoDelay(true);
                sockets.add(client);
                sockets.add(gateway);
                start(() -> carry(client, gateway, false));
                start(() -> carry(gateway, client, true));
            }
        });
    }

    private interface Work {
        void run() throws IOException;
    }

    private static void start(Work work) {
        Thread thread = new Thread(() -> {
            try {
                work.run();
            } catch (IOException closed) {
                // one of both has gone
            }
        });
        thread.setDaemon(true);
        thread.start();
    }

    private void carry(Socket from, Socket to, boolean down) throws IOException {
        AtomicLong count = down ? received : sent;
        byte[] buffer = new byte[65536];
        try (from; to) {
            InputStream in = from.getInputStream();
            OutputStream out = to.getOutputStream();
            for (int size; (size = in.read(buffer)) > 0; ) {
                count.addAndGet(size);
                if (!down || !silent) {
                    out.write(buffer, 0, size);
                }
            }
        }
    }

    int port() {
        return listener.getLocalPort();
    }

    /** To the gateway, who connected through here has vanished. */
    void cut() throws IOException {
        for (Socket socket; (socket = sockets.poll()) != null; ) {
            socket.close();
        }
    }

    @Override
    public void close() throws IOException {
        listener.close();
        cut();
    }
}
