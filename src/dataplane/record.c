#include "dataplane/record.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/risk.h"

#define PRINTABLE 512u /* bytes of input that a person reads */

/* Raw bytes of frames in one `packets` record: with base64 and JSON around it well below what a message may have. */
#define PACKETS_BYTES (48u << 10)

static json_t *address(const struct ft_address *value)
{
	char text[INET6_ADDRSTRLEN];
	return json_string(ft_address_text(value, text));
}

/* The first bytes of the input; what is no printable ASCII is escaped. */
static json_t *printable(const uint8_t *data, size_t length)
{
	char text[PRINTABLE * 4 + 1];
	size_t at = 0;
	for (size_t i = 0; i < length && i < PRINTABLE; i++) {
		uint8_t c = data[i];
		if (c == '\r' || c == '\n' || c == '\t' || c == '\\') {
			text[at++] = '\\';
			text[at++] = c == '\r' ? 'r' : c == '\n' ? 'n' : c == '\t' ? 't' : '\\';
		} else if (c >= 32 && c < 127) {
			text[at++] = (char)c;
		} else {
			at += (size_t)snprintf(text + at, 5, "\\x%02x", c);
		}
	}
	text[at] = 0;
	return json_string(text);
}

/* A piece of the request as text that is fit for JSON and a terminal. */
static void set_text(json_t *object, const char *key, const uint8_t *data, size_t length)
{
	json_object_set_new(object, key, printable(data, length));
}

static void set_header(json_t *http, const char *key, const char *header, const uint8_t *data, size_t length)
{
	size_t name = strlen(header);
	for (size_t i = 0; i + name + 2 < length; i++) {
		if (data[i] != '\n' || strncasecmp((const char *)data + i + 1, header, name))
			continue;
		size_t from = i + 1 + name;
		while (from < length && data[from] == ' ')
			from++;
		size_t to = from;
		while (to < length && data[to] != '\r' && data[to] != '\n')
			to++;
		set_text(http, key, data + from, to - from);
		return;
	}
}

/* The request line and two headers, if the input starts like an HTTP/1 request. For the record only: nothing is
 * decided by it. */
static json_t *http(const uint8_t *data, size_t length)
{
	size_t method = 0;
	while (method < length && method < 16 && isupper(data[method]))
		method++;
	if (!method || method >= length || data[method] != ' ')
		return NULL;
	size_t url = method + 1, end = url;
	while (end < length && data[end] > ' ')
		end++;
	if (end == url || end + 5 > length || memcmp(data + end, " HTTP", 5))
		return NULL;
	json_t *object = json_object();
	set_text(object, "method", data, method);
	set_text(object, "url", data + url, end - url);
	set_header(object, "hostname", "host:", data, length);
	set_header(object, "user_agent", "user-agent:", data, length);
	return object;
}

static json_t *input(const struct ft_hold *hold)
{
	uint8_t *bytes = malloc(hold->bytes + 1u);
	if (!bytes)
		return NULL;
	size_t at = 0;
	for (const struct ft_held *held = hold->first; held; held = held->next) {
		memcpy(bytes + at, held->data + held->fresh, held->fresh_length);
		at += held->fresh_length;
	}
	unsigned char hash[crypto_hash_sha256_BYTES];
	char hex[sizeof(hash) * 2 + 1];
	crypto_hash_sha256(hash, bytes, at);
	sodium_bin2hex(hex, sizeof(hex), hash, sizeof(hash));
	json_t *object =
	    json_pack("{s:I, s:I, s:s, s:I, s:I}", "frames", (json_int_t)hold->frames, "bytes",
		      (json_int_t)at, "sha256", hex, "first_sequence", (json_int_t)hold->first_sequence,
		      "next_sequence", (json_int_t)hold->next_sequence);
	json_object_set_new(object, "printable", printable(bytes, at));
	json_t *request = http(bytes, at);
	if (request)
		json_object_set_new(object, "http", request);
	free(bytes);
	return object;
}

static json_t *trigger(const struct ft_hold *hold)
{
	const struct ft_trigger *why = &hold->trigger;
	json_t *object = json_pack("{s:s, s:s}", "reason", ft_reason_label(why->reason), "text",
				   ft_reason_text(why->reason));
	if (why->pattern) {
		json_object_set_new(object, "sid", json_integer(why->pattern->sid));
		json_object_set_new(object, "rev", json_integer(why->pattern->rev));
		json_object_set_new(object, "severity", json_integer((json_int_t)why->pattern->severity));
		json_object_set_new(object, "name", json_string(why->pattern->name));
		json_object_set_new(object, "rule", json_string(why->pattern->text));
	}
	char name[128];
	json_object_set_new(object, "risk",
			    why->risk ? json_string(ft_risk_name(why->risk, name, sizeof(name)))
				      : json_null());
	if (hold->overlap)
		json_object_set_new(object, "overlap", json_true());
	return object;
}

static json_t *flow_of(const struct ft_flow *flow)
{
	json_t *object = json_pack("{s:s, s:i, s:i, s:I, s:I, s:I}", "proto",
				   flow->key.protocol == IPPROTO_TCP ? "tcp" : "udp", "client_port",
				   (int)flow->key.client_port, "server_port", (int)flow->key.server_port,
				   "packets", (json_int_t)flow->packets, "bytes", (json_int_t)flow->bytes,
				   "start_ns", (json_int_t)flow->start_wall);
	json_object_set_new(object, "packets_toclient", json_integer((json_int_t)flow->packets_toclient));
	json_object_set_new(object, "bytes_toclient", json_integer((json_int_t)flow->bytes_toclient));
	json_object_set_new(object, "client", address(&flow->key.client));
	json_object_set_new(object, "server", address(&flow->key.server));
	static const char *const vlans[FT_ETHERNET_TAGS] = {"vlan", "vlan_inner"};
	for (unsigned i = 0; i < FT_ETHERNET_TAGS && flow->key.tags.list[i]; i++)
		json_object_set_new(object, vlans[i], json_integer(flow->key.tags.list[i] & 0xfff));
	return object;
}

json_t *ft_record_hold(const struct ft_gate *gate, const struct ft_hold *hold)
{
	const struct ft_service *service = hold->flow->service;
	json_t *record = json_pack("{s:s, s:I, s:s, s:s, s:s, s:I, s:I}", "op", "hold", "hold",
				   (json_int_t)hold->id, "guest", hold->guest->name, "service", service->name,
				   "mode", ft_service_mode_name(service->mode), "started_ns",
				   (json_int_t)hold->opened_wall, "ended_ns", (json_int_t)gate->wall);
	if (!record)
		return NULL;
	json_object_set_new(record, "flow", flow_of(hold->flow));
	json_object_set_new(record, "input", input(hold));
	json_object_set_new(record, "trigger", trigger(hold));
	return record;
}

static void send_packets(struct ft_gate *gate, const struct ft_hold *hold, json_t *frames, unsigned *sequence,
			 bool last)
{
	json_t *record = json_pack("{s:s, s:I, s:s, s:I, s:b, s:o}", "op", "packets", "hold", (json_int_t)hold->id, "service",
				   hold->flow->service->name,
				   "seq", (json_int_t)(*sequence)++, "last", last, "frames", frames);
	if (record)
		gate->outlet.record(gate->outlet.context, record);
	json_decref(record);
}

void ft_record_packets(struct ft_gate *gate, const struct ft_hold *hold)
{
	json_t *frames = json_array();
	unsigned sequence = 0;
	size_t bytes = 0;
	for (const struct ft_held *held = hold->first; held; held = held->next) {
		if (bytes && bytes + held->length > PACKETS_BYTES) {
			send_packets(gate, hold, frames, &sequence, false);
			frames = json_array();
			bytes = 0;
		}
		size_t room = sodium_base64_encoded_len(held->length, sodium_base64_VARIANT_ORIGINAL);
		char *text = malloc(room);
		if (!text)
			break;
		sodium_bin2base64(text, room, held->data, held->length, sodium_base64_VARIANT_ORIGINAL);
		json_array_append_new(frames,
				      json_pack("{s:I, s:s}", "ns", (json_int_t)held->wall, "data", text));
		free(text);
		bytes += held->length + 64; /* and what JSON puts around it */
	}
	send_packets(gate, hold, frames, &sequence, true);
}
