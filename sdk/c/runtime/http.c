/* The import of HTTP, for a plugin.toml with `net`. */
#include "internal.h"

#include "../swift-http.h"

_Static_assert(sizeof(swift_response) == 20 && offsetof(swift_response, body) == 12, "response");

/* result<response, string> */
typedef struct answer {
    uint8_t failed;
    union {
        swift_response response;
        swift_text reason;
    };
} answer;
_Static_assert(offsetof(answer, response) == 4, "answer");

__attribute__((import_module("swift:plugin/http@0.1.0"), import_name("send")))
void swift_host_send(const char *method, size_t method_length, const char *url, size_t url_length, const swift_header *headers,
                     size_t count, const char *body, size_t body_length, uint32_t milliseconds, answer *answer);

swift_error swift_http_send(const swift_request *request, swift_response *response) {
    swift_text method = swift_text_of(request->method ? request->method : "GET");
    uint32_t patience = request->milliseconds ? request->milliseconds : 30000;
    answer got;
    swift_host_send(method.data, method.length, request->url.data, request->url.length, request->headers.items,
                    request->headers.count, request->body.data, request->body.length, patience, &got);
    if (got.failed) return swift_error_of(got.reason);
    *response = got.response;
    return SWIFT_OK;
}
