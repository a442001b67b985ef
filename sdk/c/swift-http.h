/* swift-http.h: asking services over HTTP. Include it beside swift.h.
 *
 * Swift lets a plugin speak to the hosts that its plugin.toml names with `net = ["example.com"]` under [capabilities] and that
 * the user granted (--allow PLUGIN:net=HOST). Redirects are not followed: the plugin sees them, and may follow one to a host
 * that was granted too. */
#ifndef SWIFT_HTTP_H
#define SWIFT_HTTP_H

#include "swift.h"

typedef struct swift_header {
    swift_text name;
    swift_text value;
} swift_header;

typedef struct swift_headers {
    const swift_header *items;
    size_t count;
} swift_headers;

typedef struct swift_request {
    const char *method; /* "GET" where it is NULL */
    swift_text url;     /* http:// or https:// */
    swift_headers headers;
    swift_text body;
    uint32_t milliseconds; /* until swift gives up; 0 is 30 seconds. The call's own deadline may come first */
} swift_request;

/* Any answer, whatever its status. */
typedef struct swift_response {
    uint16_t status;
    swift_headers headers;
    swift_text body;
} swift_response;

/* Sends a request and waits for its answer. */
swift_error swift_http_send(const swift_request *request, swift_response *response);

#endif
