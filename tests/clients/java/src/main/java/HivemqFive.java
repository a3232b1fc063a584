// SPDX-License-Identifier: Apache-2.0
import com.hivemq.client.mqtt.MqttClient;
import com.hivemq.client.mqtt.MqttGlobalPublishFilter;
import com.hivemq.client.mqtt.datatypes.MqttQos;
import com.hivemq.client.mqtt.mqtt5.Mqtt5AsyncClient;
import com.hivemq.client.mqtt.mqtt5.Mqtt5ClientBuilder;
import com.hivemq.client.mqtt.mqtt5.Mqtt5ClientConfig;
import com.hivemq.client.mqtt.mqtt5.datatypes.Mqtt5UserProperties;
import com.hivemq.client.mqtt.mqtt5.datatypes.Mqtt5UserProperty;
import com.hivemq.client.mqtt.mqtt5.exceptions.Mqtt5PubAckException;
import com.hivemq.client.mqtt.mqtt5.exceptions.Mqtt5PubRecException;
import com.hivemq.client.mqtt.mqtt5.message.connect.Mqtt5Connect;
import com.hivemq.client.mqtt.mqtt5.message.connect.Mqtt5ConnectBuilder;
import com.hivemq.client.mqtt.mqtt5.message.connect.Mqtt5ConnectRestrictions;
import com.hivemq.client.mqtt.mqtt5.message.connect.Mqtt5ConnectRestrictionsBuilder;
import com.hivemq.client.mqtt.mqtt5.message.connect.connack.Mqtt5ConnAck;
import com.hivemq.client.mqtt.mqtt5.message.publish.Mqtt5Publish;
import com.hivemq.client.mqtt.mqtt5.message.publish.puback.Mqtt5PubAckBuilder;
import com.hivemq.client.mqtt.mqtt5.message.publish.puback.Mqtt5PubAckReasonCode;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/** HiveMQ's client, for {@link Five}. */
final class HivemqFive extends Five.Client {
    private final Five.Options options;
    private final Mqtt5AsyncClient client;

    HivemqFive(Five.Options options) {
        this.options = options;
        Mqtt5ClientBuilder builder = MqttClient.builder().useMqttVersion5().serverHost(options.host()).serverPort(options.port());
        builder = builder.advancedConfig().interceptors().incomingQos1Interceptor(this::answer).applyInterceptors().applyAdvancedConfig();
        client = (options.id().isEmpty() ? builder : builder.identifier(options.id())).buildAsync();
        client.publishes(MqttGlobalPublishFilter.ALL, publish -> deliveries.add(new Five.Delivery(
                publish.getTopic().toString(), new String(publish.getPayloadAsBytes()),
                publish.getUserProperties().asList().stream().findFirst().map(pair -> pair.getValue().toString()).orElse(null),
                publish::acknowledge)), true);
    }

    private void answer(Mqtt5ClientConfig config, Mqtt5Publish publish, Mqtt5PubAckBuilder answer) {
        if (givenBack.remove(new String(publish.getPayloadAsBytes()))) {
            answer.reasonCode(Mqtt5PubAckReasonCode.UNSPECIFIED_ERROR)
                    .userProperties(Mqtt5UserProperties.of(Mqtt5UserProperty.of("delay", "700")));
        }
    }

    @Override
    boolean setsReasons() {
        return true;
    }

    private Mqtt5Connect connectPacket() {
        Mqtt5ConnectRestrictionsBuilder restrictions = Mqtt5ConnectRestrictions.builder();
        restrictions = options.receiveMax() > 0 ? restrictions.receiveMaximum(options.receiveMax()) : restrictions;
        restrictions = options.aliasMax() > 0 ? restrictions.topicAliasMaximum(options.aliasMax()) : restrictions;
        Mqtt5ConnectBuilder connect = Mqtt5Connect.builder().restrictions(restrictions.build())
                .sessionExpiryInterval(options.sessionSeconds());
        Five.Will will = options.will();
        if (will != null) {
            connect = connect.willPublish().topic(will.topic()).payload(will.body().getBytes())
                    .qos(MqttQos.fromCode(will.qos())).delayInterval(will.delaySeconds())
                    .userProperties().add("left", will.user()).applyUserProperties().applyWillPublish();
        }
        return connect.cleanStart(false).build();
    }

    @Override
    int qosMax() {
        return 2;
    }

    @Override
    boolean takesAliases() {
        return true;
    }

    @Override
    Five.Accepted connect() throws Exception {
        Mqtt5ConnAck connack = client.connect(connectPacket()).get(Five.WAIT_SECONDS, TimeUnit.SECONDS);
        return new Five.Accepted(connack.getAssignedClientIdentifier().map(Object::toString).orElse(""),
                connack.getServerKeepAlive().orElse(-1));
    }

    @Override
    void subscribe(String filter, int qos) throws Exception {
        client.subscribeWith().topicFilter(filter).qos(MqttQos.fromCode(qos)).send().get(Five.WAIT_SECONDS, TimeUnit.SECONDS);
    }

    @Override
    CompletableFuture<Five.Answer> publish(String topic, String body, int qos) {
        Mqtt5Publish publish = Mqtt5Publish.builder().topic(topic).payload(body.getBytes()).qos(MqttQos.fromCode(qos)).build();
        return client.publish(publish).handle((result, thrown) -> {
            Throwable error = thrown != null ? thrown : result.getError().orElse(null);
            if (error instanceof Mqtt5PubAckException refused) {
                return new Five.Answer(refused.getMqttMessage().getReasonCode().getCode(),
                        refused.getMqttMessage().getReasonString().map(Object::toString).orElse(null));
            }
            if (error instanceof Mqtt5PubRecException refused) {
                return new Five.Answer(refused.getMqttMessage().getReasonCode().getCode(),
                        refused.getMqttMessage().getReasonString().map(Object::toString).orElse(null));
            }
            if (error != null) {
                throw new IllegalStateException(error);
            }
            return new Five.Answer(0, null);
        });
    }

    @Override
    void disconnect() throws Exception {
        client.disconnect().get(Five.WAIT_SECONDS, TimeUnit.SECONDS);
    }
}
