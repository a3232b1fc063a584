// SPDX-License-Identifier: Apache-2.0
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import javax.net.ssl.SSLContext;
import org.eclipse.paho.client.mqttv3.IMqttActionListener;
import org.eclipse.paho.client.mqttv3.IMqttDeliveryToken;
import org.eclipse.paho.client.mqttv3.IMqttToken;
import org.eclipse.paho.client.mqttv3.MqttAsyncClient;
import org.eclipse.paho.client.mqttv3.MqttCallback;
import org.eclipse.paho.client.mqttv3.MqttConnectOptions;
import org.eclipse.paho.client.mqttv3.MqttException;
import org.eclipse.paho.client.mqttv3.MqttMessage;
import org.eclipse.paho.client.mqttv3.persist.MemoryPersistence;

/** Eclipse Paho's Java client, MQTT 3.1.1. */
final class Paho3 extends Connection {
    private final MqttAsyncClient client;
    private final Endpoint endpoint;

    Paho3(Endpoint endpoint, String id) {
        this.endpoint = endpoint;
        String scheme = endpoint.trust() != null ? "ssl://" : "tcp://";
        try {
            client = new MqttAsyncClient(scheme + endpoint.host() + ":" + endpoint.port(), id, new MemoryPersistence());
        } catch (MqttException error) {
            throw new IllegalStateException(error);
        }
        client.setCallback(new MqttCallback() {
            @Override
            public void messageArrived(String topic, MqttMessage message) {
                messages.add(new Message(topic, message.getPayload(), message.getQos(), message.isRetained(),
                        Properties.NONE));
            }

            @Override
            public void connectionLost(Throwable why) {
                why.printStackTrace();
            }

            @Override
            public void deliveryComplete(IMqttDeliveryToken token) {}
        });
    }

    private static IMqttToken await(IMqttToken token) throws MqttException {
        token.waitForCompletion(WAIT_SECONDS * 1000L);
        return token;
    }

    @Override
    boolean connect(boolean kept) throws Exception {
        MqttConnectOptions options = new MqttConnectOptions();
        options.setMqttVersion(MqttConnectOptions.MQTT_VERSION_3_1_1);
        options.setMaxInflight(1000);
        options.setCleanSession(!kept);
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
        return Arrays.stream(token.getGrantedQos()).boxed().toList();
    }

    @Override
    List<Integer> unsubscribe(List<String> filters) throws Exception {
        await(client.unsubscribe(filters.toArray(String[]::new)));
        return List.of();
    }

    @Override
    CompletableFuture<?> publish(Message message) {
        CompletableFuture<Void> answered = new CompletableFuture<>();
        try {
            client.publish(message.topic(), message.payload(), message.qos(), message.retain(), null,
                    new IMqttActionListener() {
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
