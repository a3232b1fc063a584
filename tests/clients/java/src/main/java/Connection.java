// SPDX-License-Identifier: Apache-2.0
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import javax.net.ssl.TrustManagerFactory;

/** One client of some library. Calls wait for the broker's answer, at most {@link #WAIT_SECONDS}. */
abstract class Connection {
    static final int WAIT_SECONDS = 15;

    /** What arrived, in the order in which the library handed it out. */
    final BlockingQueue<Message> messages = new LinkedBlockingQueue<>();

    /** Fails unless the broker accepts. With kept the session outlives the connection; true: it was there before. */
    abstract boolean connect(boolean kept) throws Exception;

    /** Fails unless the broker accepts, with no session from before. */
    final void connect() throws Exception {
        if (connect(false)) {
            throw new AssertionError("a session from before");
        }
    }

    /** Topic filters with QoS; returns the reason codes of SUBACK, in the same order. */
    abstract List<Integer> subscribe(Map<String, Integer> filters) throws Exception;

    /** Returns the reason codes of UNSUBACK; none in MQTT 3. */
    abstract List<Integer> unsubscribe(List<String> filters) throws Exception;

    /** Done when the broker has answered; for QoS 0, when it is sent. */
    abstract CompletableFuture<?> publish(Message message);

    abstract void disconnect() throws Exception;

    abstract boolean isConnected();

    /** Where the gateway is; with trust, TLS is spoken. */
    record Endpoint(String host, int port, TrustManagerFactory trust) {}

    record Message(String topic, byte[] payload, int qos, boolean retain, Properties properties) {}

    /** Those of MQTT 5; null or empty when absent. */
    record Properties(boolean text, Long expirySeconds, String contentType, String responseTopic,
            List<Integer> correlation, List<Pair> users) {
        static final Properties NONE = new Properties(false, null, null, null, null, List.of());
    }

    record Pair(String name, String value) {}
}
