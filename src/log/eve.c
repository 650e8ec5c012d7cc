#include "log/eve.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

#include "log/community.h"

void ft_eve_time(uint64_t ns, char text[FT_EVE_TIME])
{
	time_t seconds = (time_t)(ns / 1000000000u);
	struct tm tm;
	char date[24];
	gmtime_r(&seconds, &tm);
	strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(text, FT_EVE_TIME, "%s.%06u+0000", date, (unsigned)(ns % 1000000000u / 1000u));
}

static const char *text_of(const json_t *map, const char *key)
{
	return json_string_value(json_object_get(map, key));
}

static uint64_t number_of(const json_t *map, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(map, key));
}

static void copy(json_t *to, const char *to_key, const json_t *from, const char *from_key)
{
	json_t *value = json_object_get(from, from_key);
	if (value)
		json_object_set(to, to_key, value);
}

static json_t *begin(const char *sensor, uint64_t ns, const char *type)
{
	char time[FT_EVE_TIME];
	ft_eve_time(ns, time);
	return json_pack("{s:s, s:s, s:s}", "timestamp", time, "host", sensor, "event_type", type);
}

/* What all lines of one hold share: the flow, by every name that others may know it under. */
struct hold {
	const char *sensor;
	const json_t *record, *flow;
	uint64_t ended_ns, flow_id;
	bool tcp, blocked, ipv6;
	bool over; /* the flow, with what was done */
	char community[FT_COMMUNITY_TEXT];
};

static void read_hold(struct hold *h, const char *sensor, const json_t *record)
{
	h->sensor = sensor;
	h->record = record;
	h->flow = json_object_get(record, "flow");
	h->ended_ns = number_of(record, "ended_ns");
	h->tcp = !strcmp(text_of(h->flow, "proto"), "tcp");
	const char *disposition = text_of(record, "disposition");
	h->over = !strcmp(disposition, "dropped") || !strcmp(disposition, "reset");
	h->blocked = h->over || !strcmp(disposition, "tempfailed");

	struct ft_community_flow flow;
	memset(&flow, 0, sizeof(flow));
	const char *client = text_of(h->flow, "client"), *server = text_of(h->flow, "server");
	h->ipv6 = strchr(client, ':') || strchr(server, ':');
	flow.family = h->ipv6 ? AF_INET6 : AF_INET;
	inet_pton(flow.family, client, flow.source);
	inet_pton(flow.family, server, flow.target);
	flow.protocol = h->tcp ? IPPROTO_TCP : IPPROTO_UDP;
	flow.source_port = (uint16_t)number_of(h->flow, "client_port");
	flow.target_port = (uint16_t)number_of(h->flow, "server_port");
	ft_community_id(&flow, 0, h->community);

	/* The same for all holds of one connection, different for the next one with the same ports. Readers keep numbers
	 * as doubles: 53 bits. */
	struct {
		struct ft_community_flow flow;
		uint64_t start_ns;
	} name;
	memset(&name, 0, sizeof(name));
	name.flow = flow;
	name.start_ns = number_of(h->flow, "start_ns");
	h->flow_id = XXH3_64bits(&name, sizeof(name)) & ((1ull << 53) - 1);
}

static json_t *begin_flow(const struct hold *h, const char *type)
{
	json_t *line = begin(h->sensor, h->ended_ns, type);
	json_object_set_new(line, "flow_id", json_integer((json_int_t)h->flow_id));
	copy(line, "src_ip", h->flow, "client");
	copy(line, "src_port", h->flow, "client_port");
	copy(line, "dest_ip", h->flow, "server");
	copy(line, "dest_port", h->flow, "server_port");
	json_object_set_new(line, "proto", json_string(h->tcp ? "TCP" : "UDP"));
	/* Suricata's form: a list, outermost first. */
	const json_t *outer = json_object_get(h->flow, "vlan"), *inner = json_object_get(h->flow, "vlan_inner");
	if (outer) {
		json_t *list = json_pack("[O]", outer);
		if (inner)
			json_array_append(list, (json_t *)(uintptr_t)inner);
		json_object_set_new(line, "vlan", list);
	}
	json_object_set_new(line, "ip_v", json_integer(h->ipv6 ? 6 : 4));
	json_object_set_new(line, "community_id", json_string(h->community));
	if (json_object_get(json_object_get(h->record, "input"), "http"))
		json_object_set_new(line, "app_proto", json_string("http"));
	return line;
}

static json_t *verdict(const struct hold *h)
{
	json_t *v = json_pack("{s:s}", "action", h->blocked ? "drop" : "alert");
	if (h->over && h->tcp) {
		json_object_set_new(v, "reject", json_pack("[s]", "tcp-reset"));
		json_object_set_new(v, "reject_target", json_string("both"));
	}
	return v;
}

/* Totals of a flow as far as the record knows them; Suricata's names. */
static void add_counts(const struct hold *h, json_t *to)
{
	copy(to, "pkts_toserver", h->flow, "packets");
	copy(to, "bytes_toserver", h->flow, "bytes");
	copy(to, "pkts_toclient", h->flow, "packets_toclient");
	copy(to, "bytes_toclient", h->flow, "bytes_toclient");
	char time[FT_EVE_TIME];
	if (json_object_get(h->flow, "start_ns")) {
		ft_eve_time(number_of(h->flow, "start_ns"), time);
		json_object_set_new(to, "start", json_string(time));
	}
}

static json_t *http_of(const struct hold *h)
{
	const json_t *http = json_object_get(json_object_get(h->record, "input"), "http");
	if (!http)
		return NULL;
	json_t *to = json_object();
	copy(to, "http_method", http, "method");
	copy(to, "url", http, "url");
	copy(to, "hostname", http, "hostname");
	copy(to, "http_user_agent", http, "user_agent");
	copy(to, "protocol", http, "protocol");
	copy(to, "http_content_type", http, "content_type");
	copy(to, "http_refer", http, "refer");
	return to;
}

static json_t *category(const char *verdict_name)
{
	char text[64];
	snprintf(text, sizeof(text), "Input tried on a clone: %s", verdict_name);
	return json_string(text);
}

static json_t *alert_line(const struct hold *h)
{
	const json_t *r = h->record;
	uint64_t sid = number_of(r, "rule_sid"), rev = number_of(r, "rule_rev");
	const char *text = text_of(r, "rule_text"), *name = text_of(r, "rule");
	json_t *line = begin_flow(h, "alert");
	json_t *alert = json_object();
	json_object_set_new(alert, "action", json_string(h->blocked ? "blocked" : "allowed"));
	json_object_set_new(alert, "gid", json_integer(FT_EVE_GID));
	json_object_set_new(alert, "signature_id", json_integer(sid ? (json_int_t)sid : FT_EVE_SID_NONE));
	json_object_set_new(alert, "rev", json_integer(rev ? (json_int_t)rev : 1));
	json_object_set_new(alert, "signature",
			    json_string(text   ? text
					: name ? name
					       : text_of(r, "verdict")));
	json_object_set_new(alert, "category", category(text_of(r, "verdict")));
	copy(alert, "severity", r, "severity");
	json_object_set_new(alert, "context", json_pack("{s:O}", "foretaste", r));
	json_object_set_new(line, "alert", alert);
	json_object_set_new(line, "verdict", verdict(h));
	json_t *flow = json_object();
	add_counts(h, flow);
	json_object_set_new(line, "flow", flow);
	json_t *http = http_of(h);
	if (http)
		json_object_set_new(line, "http", http);
	const json_t *printable = json_object_get(json_object_get(r, "input"), "printable");
	if (printable)
		json_object_set(line, "payload_printable", (json_t *)printable);
	return line;
}

static json_t *drop_line(const struct hold *h)
{
	json_t *line = begin_flow(h, "drop");
	json_t *drop = json_object();
	copy(drop, "len", json_object_get(h->record, "input"), "bytes");
	copy(drop, "reason", h->record, "disposition_reason");
	if (h->tcp)
		copy(drop, "tcpseq", json_object_get(h->record, "input"), "first_sequence");
	json_object_set_new(line, "drop", drop);
	json_object_set_new(line, "verdict", verdict(h));
	return line;
}

static json_t *flow_line(const struct hold *h)
{
	json_t *line = begin_flow(h, "flow");
	json_t *flow = json_object();
	add_counts(h, flow);
	char end[FT_EVE_TIME];
	uint64_t start_ns = number_of(h->flow, "start_ns");
	ft_eve_time(h->ended_ns, end);
	json_object_set_new(flow, "end", json_string(end));
	if (start_ns && start_ns <= h->ended_ns)
		json_object_set_new(flow, "age",
				    json_integer((json_int_t)((h->ended_ns - start_ns) / 1000000000u)));
	/* After a drop the flow is over; otherwise this is an interim report of a flow that goes on. */
	json_object_set_new(flow, "state", json_string(h->over ? "closed" : "established"));
	json_object_set_new(flow, "reason", json_string(h->over ? "forced" : "unknown"));
	json_object_set_new(flow, "action", json_string(h->blocked ? "drop" : "accept"));
	json_object_set_new(flow, "alerted", json_true());
	json_object_set_new(line, "flow", flow);
	return line;
}

static json_t *http_line(const struct hold *h)
{
	json_t *line = begin_flow(h, "http");
	json_object_set_new(line, "tx_id", json_integer(0));
	json_object_set_new(line, "http", http_of(h));
	return line;
}

static json_t *file_line(const struct hold *h, const struct ft_eve_file *file)
{
	json_t *line = begin_flow(h, "fileinfo");
	json_object_set_new(line, "fileinfo",
			    json_pack("{s:s, s:b, s:s, s:b, s:I, s:s, s:i}", "filename", file->name, "gaps",
				      0, "state", "CLOSED", "stored", 1, "size", (json_int_t)file->size,
				      "sha256", file->sha256, "tx_id", 0));
	return line;
}

json_t *ft_eve_hold(const char *sensor, const json_t *record, const struct ft_eve_file *file)
{
	struct hold h;
	read_hold(&h, sensor, record);
	json_t *lines = json_array();
	int bad = json_array_append_new(lines, alert_line(&h));
	if (h.blocked)
		bad |= json_array_append_new(lines, drop_line(&h));
	if (json_object_get(json_object_get(record, "input"), "http"))
		bad |= json_array_append_new(lines, http_line(&h));
	if (file)
		bad |= json_array_append_new(lines, file_line(&h, file));
	bad |= json_array_append_new(lines, flow_line(&h));
	if (!bad)
		return lines;
	json_decref(lines);
	return NULL;
}

json_t *ft_eve_correlation(const char *sensor, uint64_t ns, const json_t *event)
{
	json_int_t sid = json_integer_value(json_object_get(event, "sid"));
	json_int_t rev = json_integer_value(json_object_get(event, "rev"));
	json_int_t severity = json_integer_value(json_object_get(event, "severity"));
	const char *text = text_of(event, "text");
	json_t *line = begin(sensor, ns, "alert");
	json_object_set_new(
	    line, "alert",
	    json_pack("{s:s, s:i, s:I, s:I, s:s, s:s, s:I, s:{s:O}}", "action", "allowed", "gid", FT_EVE_GID,
		      "signature_id", sid > 0 ? sid : FT_EVE_SID_NONE, "rev", rev > 0 ? rev : 1, "signature",
		      text ? text : "correlation", "category", "Behaviour of the live guest", "severity",
		      severity >= 1 && severity <= 3 ? severity : 3, "context", "foretaste", event));
	return line;
}

json_t *ft_eve_engine(const char *sensor, uint64_t ns, const char *module, const char *text, int error)
{
	json_t *line = begin(sensor, ns, "engine");
	json_t *engine = json_object();
	json_object_set_new(engine, "module", json_string(module));
	json_object_set_new(engine, "message", json_string(text));
	if (error)
		json_object_set_new(engine, "error", json_string(text));
	json_object_set_new(line, "engine", engine);
	return line;
}
