// SPDX-License-Identifier: Apache-2.0
import java.util.List;
import java.util.concurrent.CompletableFuture;
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

/** Eclipse Paho's Java client, for {@link Five}. */
final class PahoFive extends Five.Client {
    /** What publish throws while as many messages are under way as the gateway allows. */
    private static final int TOO_MANY = 32202;

    private final Five.Options options;
    private final MqttAsyncClient client;

    PahoFive(Five.Options options) {
        this.options = options;
        try {
            client = new MqttAsyncClient("tcp://" + options.host() + ":" + options.port(), options.id(), new MemoryPersistence());
        } catch (MqttException error) {
            throw new IllegalStateException(error);
        }
        client.setManualAcks(true);
        client.setCallback(new Callback());
    }

    private final class Callback implements MqttCallback {
        @Override
        public void messageArrived(String topic, MqttMessage message) {
            List<UserProperty> users = message.getProperties().getUserProperties();
            deliveries.add(new Five.Delivery(topic, new String(message.getPayload()),
                    users.isEmpty() ? null : users.get(0).getValue(), () -> acknowledge(message)));
        }

        @Override
        public void disconnected(MqttDisconnectResponse response) {}

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

    private void acknowledge(MqttMessage message) {
        try {
            client.messageArrivedComplete(message.getId(), message.getQos());
        } catch (MqttException error) {
            throw new IllegalStateException(error);
        }
    }

    private static IMqttToken await(IMqttToken token) throws MqttException {
        token.waitForCompletion(Five.WAIT_SECONDS * 1000L);
        return token;
    }

    // Paho 1.2.5 answers QoS 2 by itself and hangs up when it is refused; an alias without a name has an empty one for it.
    @Override
    int qosMax() {
        return 1;
    }

    @Override
    boolean takesAliases() {
        return false;
    }

    @Override
    Five.Accepted connect() throws Exception {
        MqttConnectionOptions connect = new MqttConnectionOptions();
        connect.setCleanStart(false);
        connect.setSessionExpiryInterval(options.sessionSeconds());
        if (options.receiveMax() > 0) {
            connect.setReceiveMaximum(options.receiveMax());
        }
        if (options.aliasMax() > 0) {
            connect.setTopicAliasMaximum(options.aliasMax());
        }
        Five.Will will = options.will();
        if (will != null) {
            MqttProperties properties = new MqttProperties();
            properties.setWillDelayInterval(will.delaySeconds());
            properties.setUserProperties(List.of(new UserProperty("left", will.user())));
            connect.setWill(will.topic(), new MqttMessage(will.body().getBytes(), will.qos(), false, null));
            connect.setWillMessageProperties(properties);
        }
        MqttProperties answer = await(client.connect(connect)).getResponseProperties();
        return new Five.Accepted(String.valueOf(answer.getAssignedClientIdentifier()),
                answer.getServerKeepAlive() == null ? -1 : answer.getServerKeepAlive());
    }

    @Override
    void subscribe(String filter, int qos) throws Exception {
        await(client.subscribe(filter, qos));
    }

    private static Five.Answer answerOf(IMqttToken token) {
        int[] reasons = token.getReasonCodes();
        MqttProperties properties = token.getResponseProperties();
        return new Five.Answer(reasons == null ? 0 : reasons[0], properties == null ? null : properties.getReasonString());
    }

    @Override
    CompletableFuture<Five.Answer> publish(String topic, String body, int qos) throws Exception {
        CompletableFuture<Five.Answer> answered = new CompletableFuture<>();
        MqttActionListener listener = new MqttActionListener() {
            @Override
            public void onSuccess(IMqttToken token) {
                answered.complete(answerOf(token));
            }

            @Override
            public void onFailure(IMqttToken token, Throwable why) {
                answered.complete(answerOf(token));
            }
        };
        for (long end = System.nanoTime() + Five.WAIT_SECONDS * 1_000_000_000L; ; Thread.sleep(1)) {
            try {
                client.publish(topic, new MqttMessage(body.getBytes(), qos, false, new MqttProperties()), null, listener);
                return answered;
            } catch (MqttException error) {
                if (error.getReasonCode() != TOO_MANY || System.nanoTime() > end) {
                    throw error;
                }
            }
        }
    }

    @Override
    void disconnect() throws Exception {
        await(client.disconnect());
        client.close();
    }
}
