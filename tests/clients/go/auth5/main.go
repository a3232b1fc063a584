// SPDX-License-Identifier: Apache-2.0

// Enhanced authentication with Eclipse Paho's Go client for MQTT 5, as the user of POLYLOG_USER and POLYLOG_PASSWORD:
// auth5 HOST PORT
package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/eclipse/paho.golang/paho"

	. "polylog.test/clients/checks"
)

const method = "SCRAM-SHA-256"

// scram is a client's side of one exchange (RFC 5802) without channel binding.
type scram struct {
	password, nonce, first string
	expected               string
}

func newScram(password string) *scram {
	random := make([]byte, 18)
	_, err := rand.Read(random)
	Done(err)
	nonce := base64.StdEncoding.EncodeToString(random)
	user := strings.NewReplacer("=", "=3D", ",", "=2C").Replace(os.Getenv("POLYLOG_USER"))
	return &scram{password: password, nonce: nonce, first: "n=" + user + ",r=" + nonce}
}

func (s *scram) begin() []byte { return []byte("n,," + s.first) }

func sum(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// stretch is PBKDF2 for one block.
func stretch(password string, salt []byte, rounds int) []byte {
	block := sum([]byte(password), string(binary.BigEndian.AppendUint32(salt, 1)))
	result := append([]byte{}, block...)
	for i := 1; i < rounds; i++ {
		block = sum([]byte(password), string(block))
		for j := range result {
			result[j] ^= block[j]
		}
	}
	return result
}

// prove is the answer to the server's challenge; an empty one when that is none.
func (s *scram) prove(challenge string) []byte {
	fields := map[string]string{}
	for _, part := range strings.Split(challenge, ",") {
		if len(part) > 2 {
			fields[part[:1]] = part[2:]
		}
	}
	salt, _ := base64.StdEncoding.DecodeString(fields["s"])
	rounds, _ := strconv.Atoi(fields["i"])
	if !strings.HasPrefix(fields["r"], s.nonce) || fields["r"] == s.nonce {
		return nil
	}
	salted := stretch(s.password, salt, rounds)
	last := "c=biws,r=" + fields["r"]
	exchange := s.first + "," + challenge + "," + last
	proof := sum(salted, "Client Key")
	stored := sha256.Sum256(proof)
	for i, octet := range sum(stored[:], exchange) {
		proof[i] ^= octet
	}
	s.expected = "v=" + base64.StdEncoding.EncodeToString(sum(sum(salted, "Server Key"), exchange))
	return []byte(last + ",p=" + base64.StdEncoding.EncodeToString(proof))
}

// handler is what the library calls for each AUTH that the server sends to go on.
type handler struct {
	exchange *scram
}

func auth(reason byte, data []byte) *paho.Auth {
	return &paho.Auth{ReasonCode: reason, Properties: &paho.AuthProperties{AuthMethod: method, AuthData: data}}
}

func (h *handler) Authenticate(challenge *paho.Auth) *paho.Auth {
	return auth(0x18, h.exchange.prove(string(challenge.Properties.AuthData)))
}

func (h *handler) Authenticated() {}

// connection is a client with what it got and how it was sent away.
type connection struct {
	client   *paho.Client
	handler  *handler
	messages chan Message
	ended    chan byte
}

// connect returns the CONNACK, also of a refusal.
func connect(name, password string) (*connection, *paho.Connack) {
	socket, err := net.DialTimeout("tcp", Address(), Wait)
	Done(err)
	c := &connection{handler: &handler{newScram(password)}, messages: make(chan Message, 10), ended: make(chan byte, 1)}
	c.client = paho.NewClient(paho.ClientConfig{
		Conn: socket, AuthHandler: c.handler, PacketTimeout: Wait,
		Router: paho.NewSingleHandlerRouter(func(message *paho.Publish) {
			c.messages <- Message{Topic: message.Topic, Payload: message.Payload}
		}),
		OnServerDisconnect: func(packet *paho.Disconnect) { c.ended <- packet.ReasonCode },
	})
	// A short keep alive: the library may wait for a quarter of it when it disconnects at once.
	connack, err := c.client.Connect(Within(), &paho.Connect{ClientID: "paho-go-auth", CleanStart: true, KeepAlive: 2,
		Properties: &paho.ConnectProperties{AuthMethod: name, AuthData: c.handler.exchange.begin()}})
	if connack == nil {
		Done(err)
	}
	return c, connack
}

func run() int {
	check := Checks{Client: "paho.golang v5"}
	password := os.Getenv("POLYLOG_PASSWORD")

	check.Check("SCRAM-SHA-256: connect, and the gateway proves itself", func() {
		c, connack := connect(method, password)
		Same(connack.ReasonCode, byte(0))
		Same(string(connack.Properties.AuthData), c.handler.exchange.expected)
		Done(c.client.Disconnect(&paho.Disconnect{}))
	})
	check.Check("SCRAM-SHA-256: a wrong password", func() {
		_, connack := connect(method, "wrong")
		Same(connack.ReasonCode, byte(0x86))
	})
	check.Check("an unknown method", func() {
		_, connack := connect("SCRAM-SHA-1", password)
		Same(connack.ReasonCode, byte(0x8C))
	})
	check.Check("SCRAM-SHA-256 again, twice, while messages flow; then with a wrong password", func() {
		c, connack := connect(method, password)
		Same(connack.ReasonCode, byte(0))
		_, err := c.client.Subscribe(Within(), &paho.Subscribe{
			Subscriptions: []paho.SubscribeOptions{{Topic: "auth/go", QoS: 1}}})
		Done(err)
		for i := 0; i < 2; i++ {
			c.handler.exchange = newScram(password)
			proved := make(chan *paho.AuthResponse, 1)
			go func() {
				answer, _ := c.client.Authenticate(Within(), auth(0x19, c.handler.exchange.begin()))
				proved <- answer
			}()
			_, err = c.client.Publish(Within(), &paho.Publish{Topic: "auth/go", QoS: 1, Payload: []byte(strconv.Itoa(i))})
			Done(err)
			answer := <-proved
			if answer == nil || answer.ReasonCode != 0 {
				Fail("not proved: %+v", answer)
			}
			Same(string(Next(c.messages).Payload), strconv.Itoa(i))
		}
		c.handler.exchange = newScram("another one")
		answer, err := c.client.Authenticate(Within(), auth(0x19, c.handler.exchange.begin()))
		Done(err)
		Same(answer.ReasonCode, byte(0x87))
	})
	return check.Failed
}

func main() {
	if run() > 0 {
		os.Exit(1)
	}
}
