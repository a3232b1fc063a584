// SPDX-License-Identifier: Apache-2.0
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import javax.net.ssl.SSLContext;
import org.eclipse.paho.mqttv5.client.IMqttToken;
import org.eclipse.paho.mqttv5.client.MqttActionListener;
import org.eclipse.paho.mqttv5.client.MqttAsyncClient;
import org.eclipse.paho.mqttv5.client.MqttCallback;
import org.eclipse.paho.mqttv5.client.MqttConnectionOptions;
import org.eclipse.paho.mqttv5.client.MqttDisconnectResponse;
import org.eclipse.paho.mqttv5.client.persist.MemoryPersistence;
import org.eclipse.paho.mqttv5.common.MqttException;
import org.eclipse.paho.mqttv5.common.MqttMessage;
import org.eclipse.paho.mqttv5.common.packet.MqttProperties;
import org.eclipse.paho.mqttv5.common.packet.UserProperty;

/** Eclipse Paho's Java client, MQTT 5. */
final class Paho5 extends Connection {
    private final MqttAsyncClient client;
    private final Endpoint endpoint;

    Paho5(Endpoint endpoint, String id) {
        this.endpoint = endpoint;
        String scheme = endpoint.trust() != null ? "ssl://" : "tcp://";
        try {
            client = new MqttAsyncClient(scheme + endpoint.host() + ":" + endpoint.port(), id, new MemoryPersistence());
        } catch (MqttException error) {
            throw new IllegalStateException(error);
        }
        client.setCallback(new Callback());
    }

    private final class Callback implements MqttCallback {
        @Override
        public void messageArrived(String topic, MqttMessage message) {
            messages.add(new Message(topic, message.getPayload(), message.getQos(), message.isRetained(),
                    propertiesOf(message.getProperties())));
        }

        @Override
        public void disconnected(MqttDisconnectResponse response) {
            System.err.println("disconnected: " + response);
        }

        @Override
        public void mqttErrorOccurred(MqttException error) {
            error.printStackTrace();
        }

        @Override
        public void deliveryComplete(IMqttToken token) {}

        @Override
        public void connectComplete(boolean reconnect, String serverUri) {}

        @Override
        public void authPacketArrived(int reasonCode, MqttProperties properties) {}
    }

    private static Properties propertiesOf(MqttProperties from) {
        List<Integer> correlation = null;
        if (from.getCorrelationData() != null) {
            correlation = new ArrayList<>();
            for (byte each : from.getCorrelationData()) {
                correlation.add(each & 0xFF);
            }
        }
        return new Properties(from.getPayloadFormat(), from.getMessageExpiryInterval(), from.getContentType(),
                from.getResponseTopic(), correlation,
                from.getUserProperties().stream().map(pair -> new Pair(pair.getKey(), pair.getValue())).toList());
    }

    private static MqttProperties propertiesFor(Properties from) {
        MqttProperties to = new MqttProperties();
        if (from == Properties.NONE) {
            return to;
        }
        byte[] correlation = new byte[from.correlation().size()];
        for (int i = 0; i < correlation.length; i++) {
            correlation[i] = from.correlation().get(i).byteValue();
        }
        to.setPayloadFormat(from.text());
        to.setMessageExpiryInterval(from.expirySeconds());
        to.setContentType(from.contentType());
        to.setResponseTopic(from.responseTopic());
        to.setCorrelationData(correlation);
        to.setUserProperties(from.users().stream().map(pair -> new UserProperty(pair.name(), pair.value())).toList());
        return to;
    }

    private static IMqttToken await(IMqttToken token) throws MqttException {
        token.waitForCompletion(WAIT_SECONDS * 1000L);
        return token;
    }

    @Override
    boolean connect(boolean kept) throws Exception {
        MqttConnectionOptions options = new MqttConnectionOptions();
        options.setCleanStart(!kept);
        options.setSessionExpiryInterval(kept ? 100L : 0L);
        if (endpoint.trust() != null) {
            SSLContext context = SSLContext.getInstance("TLS");
            context.init(null, endpoint.trust().getTrustManagers(), null);
            options.setSocketFactory(context.getSocketFactory());
        }
        return await(client.connect(options)).getSessionPresent();
    }

    @Override
    List<Integer> subscribe(Map<String, Integer> filters) throws Exception {
        int[] qos = filters.values().stream().mapToInt(Integer::intValue).toArray();
        IMqttToken token = await(client.subscribe(filters.keySet().toArray(String[]::new), qos));
        return Arrays.stream(token.getReasonCodes()).boxed().toList();
    }

    @Override
    List<Integer> unsubscribe(List<String> filters) throws Exception {
        IMqttToken token = await(client.unsubscribe(filters.toArray(String[]::new)));
        return Arrays.stream(token.getReasonCodes()).boxed().toList();
    }

    @Override
    CompletableFuture<?> publish(Message message) {
        CompletableFuture<Void> answered = new CompletableFuture<>();
        MqttMessage packet = new MqttMessage(message.payload(), message.qos(), message.retain(),
                propertiesFor(message.properties()));
        try {
            client.publish(message.topic(), packet, null, new MqttActionListener() {
                @Override
                public void onSuccess(IMqttToken token) {
                    answered.complete(null);
                }

                @Override
                public void onFailure(IMqttToken token, Throwable why) {
                    answered.completeExceptionally(why);
                }
            });
        } catch (MqttException error) {
            answered.completeExceptionally(error);
        }
        return answered;
    }

    @Override
    void disconnect() throws Exception {
        await(client.disconnect());
        client.close();
    }

    @Override
    boolean isConnected() {
        return client.isConnected();
    }
}
