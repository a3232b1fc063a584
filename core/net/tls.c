/* SPDX-License-Identifier: Apache-2.0 */
/* Reading certificates into an SSL_CTX, and replacing it while sessions of the old one live on. */
#include "core/net/tls.h"

#include <openssl/err.h>
#include <pthread.h>
#include <string.h>

#include "core/base/heap.h"
#include "core/net/tls_impl.h"

struct tls_context {
    pthread_mutex_t lock;
    SSL_CTX *current; /* under lock; OpenSSL counts who uses it */
    char *certificate, *key, *client_ca;
    bool required; /* a certificate of client_ca */
};

static enum status failed(struct err *err, const char *what, const char *file)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    ERR_clear_error();
    return err_set(err, STATUS_INVALID, "%s %s: %s", what, file,
                   reason != NULL ? reason : "failed");
}

/* Without it OpenSSL would ask the terminal. */
static int no_passphrase(char *to, int size, int writing, void *context)
{
    (void)to;
    (void)size;
    (void)writing;
    (void)context;
    return 0;
}

static void set_options(SSL_CTX *ctx)
{
    static const unsigned char session_context[] = "polylog";
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                              SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    /* Tickets make the client remember; a cache would make us. */
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(ctx, 1);
    SSL_CTX_set_session_id_context(ctx, session_context, sizeof session_context - 1);
    SSL_CTX_set_default_passwd_cb(ctx, no_passphrase);
}

static enum status load_client_ca(SSL_CTX *ctx, const char *file, bool required, struct err *err)
{
    if (SSL_CTX_load_verify_file(ctx, file) != 1)
        return failed(err, "client authority", file);
    STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(file);
    if (names == NULL)
        return failed(err, "client authority", file);
    SSL_CTX_set_client_CA_list(ctx, names);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | (required ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0),
                       NULL);
    return STATUS_OK;
}

static enum status load_files(const struct tls_context *tls, SSL_CTX *ctx, struct err *err)
{
    if (SSL_CTX_use_certificate_chain_file(ctx, tls->certificate) != 1)
        return failed(err, "certificate", tls->certificate);
    if (SSL_CTX_use_PrivateKey_file(ctx, tls->key, SSL_FILETYPE_PEM) != 1)
        return failed(err, "key", tls->key);
    if (SSL_CTX_check_private_key(ctx) != 1)
        return failed(err, "key", tls->key);
    if (tls->client_ca == NULL)
        return STATUS_OK;
    return load_client_ca(ctx, tls->client_ca, tls->required, err);
}

enum status tls_context_reload(struct tls_context *tls, struct err *err)
{
    ERR_clear_error();
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    if (ctx == NULL)
        return err_set(err, STATUS_NO_MEMORY, "TLS: %s", status_text(STATUS_NO_MEMORY));
    set_options(ctx);
    enum status status = load_files(tls, ctx, err);
    if (status == STATUS_OK) {
        pthread_mutex_lock(&tls->lock);
        SSL_CTX *old = tls->current;
        tls->current = ctx;
        pthread_mutex_unlock(&tls->lock);
        ctx = old;
    }
    SSL_CTX_free(ctx);
    return status;
}

struct tls_context *tls_context_open(const char *certificate, const char *key,
                                     const char *client_ca, bool required, struct err *err)
{
    struct tls_context *tls = heap_new(sizeof *tls);
    tls->required = required;
    pthread_mutex_init(&tls->lock, NULL);
    tls->certificate = heap_text(certificate, strlen(certificate));
    tls->key = heap_text(key, strlen(key));
    if (client_ca != NULL)
        tls->client_ca = heap_text(client_ca, strlen(client_ca));
    if (tls_context_reload(tls, err) == STATUS_OK)
        return tls;
    tls_context_free(tls);
    return NULL;
}

void tls_context_free(struct tls_context *tls)
{
    if (tls == NULL)
        return;
    SSL_CTX_free(tls->current);
    pthread_mutex_destroy(&tls->lock);
    heap_free(tls->certificate);
    heap_free(tls->key);
    heap_free(tls->client_ca);
    heap_free(tls);
}

SSL *tls_context_session(struct tls_context *tls)
{
    pthread_mutex_lock(&tls->lock);
    SSL *ssl = SSL_new(tls->current);
    pthread_mutex_unlock(&tls->lock);
    return ssl;
}
