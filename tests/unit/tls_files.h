/* SPDX-License-Identifier: Apache-2.0 */
/* Keys and certificates made when a test runs: an authority, and what it signs. */
#ifndef TESTS_UNIT_TLS_FILES_H
#define TESTS_UNIT_TLS_FILES_H

#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/check.h"

struct tls_files {
    char folder[200];
    char ca[256], server[256], server_key[256], client[256], client_key[256], other_ca[256],
        other_client[256], other_client_key[256];
};

struct tls_identity {
    EVP_PKEY *key;
    X509 *certificate;
};

static void tls_file_write(const char *path, EVP_PKEY *key, X509 *certificate)
{
    FILE *file = fopen(path, "w");
    CHECK(file != NULL);
    if (key != NULL)
        CHECK(PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL) == 1);
    else
        CHECK(PEM_write_X509(file, certificate) == 1);
    fclose(file);
}

static void tls_extension_add(X509 *certificate, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    CHECK(extension != NULL);
    X509_add_ext(certificate, extension, -1);
    X509_EXTENSION_free(extension);
}

/* issuer NULL: an authority that signs itself. */
static struct tls_identity tls_identity_make(const char *name, const struct tls_identity *issuer)
{
    static long serial;
    struct tls_identity identity = {.key = EVP_EC_gen("P-256"), .certificate = X509_new()};
    X509 *certificate = identity.certificate;
    const struct tls_identity *signer = issuer != NULL ? issuer : &identity;
    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 86400);
    X509_set_pubkey(certificate, identity.key);
    X509_NAME *subject = X509_get_subject_name(certificate);
    X509_NAME_add_entry_by_txt(subject, "O", MBSTRING_ASC, (const unsigned char *)"tests", -1, -1,
                               0);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(certificate, X509_get_subject_name(signer->certificate));
    tls_extension_add(certificate, signer->certificate, NID_basic_constraints,
                      issuer == NULL ? "critical,CA:TRUE" : "CA:FALSE");
    tls_extension_add(certificate, signer->certificate, NID_subject_alt_name,
                      "DNS:localhost,IP:127.0.0.1");
    CHECK(X509_sign(certificate, signer->key, EVP_sha256()) > 0);
    return identity;
}

static void tls_identity_free(struct tls_identity *identity)
{
    EVP_PKEY_free(identity->key);
    X509_free(identity->certificate);
}

static void tls_identity_write(const char *name, const struct tls_identity *issuer,
                               const char *certificate, const char *key)
{
    struct tls_identity identity = tls_identity_make(name, issuer);
    tls_file_write(certificate, NULL, identity.certificate);
    tls_file_write(key, identity.key, NULL);
    tls_identity_free(&identity);
}

static void tls_files_make(struct tls_files *files)
{
    const char *temporary = getenv("TMPDIR");
    snprintf(files->folder, sizeof files->folder, "%s/tls-files-XXXXXX",
             temporary != NULL ? temporary : P_tmpdir);
    CHECK(mkdtemp(files->folder) != NULL);
    const char *folder = files->folder;
    snprintf(files->ca, sizeof files->ca, "%s/ca.pem", folder);
    snprintf(files->server, sizeof files->server, "%s/server.pem", folder);
    snprintf(files->server_key, sizeof files->server_key, "%s/server.key", folder);
    snprintf(files->client, sizeof files->client, "%s/client.pem", folder);
    snprintf(files->client_key, sizeof files->client_key, "%s/client.key", folder);
    snprintf(files->other_ca, sizeof files->other_ca, "%s/other-ca.pem", folder);
    snprintf(files->other_client, sizeof files->other_client, "%s/other-client.pem", folder);
    snprintf(files->other_client_key, sizeof files->other_client_key, "%s/other-client.key",
             folder);

    struct tls_identity ca = tls_identity_make("authority", NULL);
    tls_file_write(files->ca, NULL, ca.certificate);
    tls_identity_write("localhost", &ca, files->server, files->server_key);
    tls_identity_write("device-7", &ca, files->client, files->client_key);
    tls_identity_free(&ca);
    struct tls_identity other = tls_identity_make("other authority", NULL);
    tls_file_write(files->other_ca, NULL, other.certificate);
    tls_identity_write("stranger", &other, files->other_client, files->other_client_key);
    tls_identity_free(&other);
}

static void tls_files_remove(struct tls_files *files)
{
    const char *const paths[] = {files->ca,           files->server,          files->server_key,
                                 files->client,       files->client_key,      files->other_ca,
                                 files->other_client, files->other_client_key};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        unlink(paths[i]);
    rmdir(files->folder);
}

#endif
