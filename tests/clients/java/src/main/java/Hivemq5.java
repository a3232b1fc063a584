// SPDX-License-Identifier: Apache-2.0
import com.hivemq.client.mqtt.MqttClient;
import com.hivemq.client.mqtt.MqttGlobalPublishFilter;
import com.hivemq.client.mqtt.datatypes.MqttQos;
import com.hivemq.client.mqtt.datatypes.MqttTopicFilter;
import com.hivemq.client.mqtt.mqtt5.Mqtt5AsyncClient;
import com.hivemq.client.mqtt.mqtt5.Mqtt5ClientBuilder;
import com.hivemq.client.mqtt.mqtt5.datatypes.Mqtt5UserProperties;
import com.hivemq.client.mqtt.mqtt5.datatypes.Mqtt5UserProperty;
import com.hivemq.client.mqtt.mqtt5.exceptions.Mqtt5SubAckException;
import com.hivemq.client.mqtt.mqtt5.exceptions.Mqtt5UnsubAckException;
import com.hivemq.client.mqtt.mqtt5.message.publish.Mqtt5PayloadFormatIndicator;
import com.hivemq.client.mqtt.mqtt5.message.publish.Mqtt5Publish;
import com.hivemq.client.mqtt.mqtt5.message.publish.Mqtt5PublishBuilder;
import com.hivemq.client.mqtt.mqtt5.message.subscribe.Mqtt5Subscribe;
import com.hivemq.client.mqtt.mqtt5.message.subscribe.Mqtt5Subscription;
import com.hivemq.client.mqtt.mqtt5.message.subscribe.suback.Mqtt5SubAck;
import com.hivemq.client.mqtt.mqtt5.message.unsubscribe.Mqtt5Unsubscribe;
import com.hivemq.client.mqtt.mqtt5.message.unsubscribe.unsuback.Mqtt5UnsubAck;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;

/** HiveMQ's client, MQTT 5. */
final class Hivemq5 extends Connection {
    private final Mqtt5AsyncClient client;

    Hivemq5(Endpoint endpoint, String id) {
        Mqtt5ClientBuilder builder = MqttClient.builder().useMqttVersion5().identifier(id)
                .serverHost(endpoint.host()).serverPort(endpoint.port());
        if (endpoint.trust() != null) {
            builder = builder.sslConfig().trustManagerFactory(endpoint.trust()).applySslConfig();
        }
        client = builder.buildAsync();
        client.publishes(MqttGlobalPublishFilter.ALL, publish -> messages.add(new Message(
                publish.getTopic().toString(), publish.getPayloadAsBytes(), publish.getQos().getCode(),
                publish.isRetain(), propertiesOf(publish))));
    }

    private static Properties propertiesOf(Mqtt5Publish publish) {
        return new Properties(
                publish.getPayloadFormatIndicator().orElse(null) == Mqtt5PayloadFormatIndicator.UTF_8,
                publish.getMessageExpiryInterval().isPresent() ? publish.getMessageExpiryInterval().getAsLong() : null,
                publish.getContentType().map(Object::toString).orElse(null),
                publish.getResponseTopic().map(Object::toString).orElse(null),
                publish.getCorrelationData().map(Hivemq5::bytesOf).orElse(null),
                publish.getUserProperties().asList().stream()
                        .map(pair -> new Pair(pair.getName().toString(), pair.getValue().toString())).toList());
    }

    private static List<Integer> bytesOf(ByteBuffer buffer) {
        List<Integer> bytes = new ArrayList<>();
        while (buffer.hasRemaining()) {
            bytes.add(buffer.get() & 0xFF);
        }
        return bytes;
    }

    @Override
    boolean connect(boolean kept) throws Exception {
        return client.connectWith().cleanStart(!kept).sessionExpiryInterval(kept ? 100 : 0).send().get(WAIT_SECONDS, TimeUnit.SECONDS)
                .isSessionPresent();
    }

    @Override
    List<Integer> subscribe(Map<String, Integer> filters) throws Exception {
        Mqtt5Subscribe subscribe = Mqtt5Subscribe.builder()
                .addSubscriptions(filters.entrySet().stream().map(filter -> Mqtt5Subscription.builder()
                        .topicFilter(filter.getKey()).qos(MqttQos.fromCode(filter.getValue())).build()))
                .build();
        Mqtt5SubAck suback;
        try {
            suback = client.subscribe(subscribe).get(WAIT_SECONDS, TimeUnit.SECONDS);
        } catch (ExecutionException refused) { // at least one filter
            suback = ((Mqtt5SubAckException) refused.getCause()).getMqttMessage();
        }
        return suback.getReasonCodes().stream().map(code -> code.getCode()).toList();
    }

    @Override
    List<Integer> unsubscribe(List<String> filters) throws Exception {
        Mqtt5Unsubscribe unsubscribe = Mqtt5Unsubscribe.builder()
                .addTopicFilters(filters.stream().map(MqttTopicFilter::of)).build();
        Mqtt5UnsubAck unsuback;
        try {
            unsuback = client.unsubscribe(unsubscribe).get(WAIT_SECONDS, TimeUnit.SECONDS);
        } catch (ExecutionException refused) {
            unsuback = ((Mqtt5UnsubAckException) refused.getCause()).getMqttMessage();
        }
        return unsuback.getReasonCodes().stream().map(code -> code.getCode()).toList();
    }

    @Override
    CompletableFuture<?> publish(Message message) {
        Mqtt5PublishBuilder.Complete publish = Mqtt5Publish.builder().topic(message.topic())
                .payload(message.payload()).qos(MqttQos.fromCode(message.qos()))
                .retain(message.retain());
        Properties properties = message.properties();
        if (properties != Properties.NONE) {
            byte[] correlation = new byte[properties.correlation().size()];
            for (int i = 0; i < correlation.length; i++) {
                correlation[i] = properties.correlation().get(i).byteValue();
            }
            publish = publish.payloadFormatIndicator(Mqtt5PayloadFormatIndicator.UTF_8)
                    .messageExpiryInterval(properties.expirySeconds()).contentType(properties.contentType())
                    .responseTopic(properties.responseTopic()).correlationData(correlation)
                    .userProperties(Mqtt5UserProperties.of(properties.users().stream()
                            .map(pair -> Mqtt5UserProperty.of(pair.name(), pair.value())).toList()));
        }
        return client.publish(publish.build()).thenAccept(result -> result.getError().ifPresent(error -> {
            throw new IllegalStateException(error);
        }));
    }

    @Override
    void disconnect() throws Exception {
        client.disconnect().get(WAIT_SECONDS, TimeUnit.SECONDS);
    }

    @Override
    boolean isConnected() {
        return client.getState().isConnected();
    }
}
