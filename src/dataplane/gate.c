#include "dataplane/gate.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/event.h"
#include "dataplane/gate-t.h"
#include "dataplane/hold.h"
#include "dataplane/tcp.h"
#include "dataplane/udp.h"

#define TICK_NS  1000000000ull
#define SWEEP_NS 10000000ull /* 64 entries in 10 ms: a table of 65536 flows in ten seconds */

/* Rules keep quiet by the guest's time, and that is what its process says it is: so no more findings than this in ten seconds
 * of ours, or a lying one could fill the feed. */
#define FINDINGS_MOST 16u
#define FINDINGS_NS   10000000000ull

#define EVENTS_NS 50000u
#define SLEEP_NS  900000u /* a little less than the longest sleep of the process */

#define DEFAULT_FLOWS 65536u
#define LEAST_FLOWS   64u
#define MOST_FLOWS    (1u << 20)

void ft_gate_log(struct ft_gate *gate, const char *level, const char *format, ...)
{
	char text[512];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	gate->outlet.log(gate->outlet.context, level, text);
}

/* ---- output ---- */

bool ft_gate_has_room(struct ft_gate *gate, size_t length)
{
	return gate->guest.up && ft_ring_room(&gate->guest.link.rx) >= length;
}

int ft_gate_deliver(struct ft_gate *gate, const void *frame, size_t length)
{
	struct ft_guest *guest = &gate->guest;
	if (!guest->up) {
		ft_gate_note(gate, FT_REASON_DROP_GUEST_DOWN);
		return -ENOTCONN;
	}
	struct iovec part = {.iov_base = (void *)(uintptr_t)frame, .iov_len = length};
	int error = ft_ring_put(&guest->link.rx, FT_LINK_FRAME, &part, 1);
	if (!error) {
		guest->kick = true;
		return 0;
	}
	if (error == -EPROTO) {
		ft_gate_note(gate, FT_REASON_DROP_GUEST_DOWN);
		ft_gate_link_broken(gate, "its receive ring has an impossible index");
	} else {
		ft_gate_note(gate, error == -EMSGSIZE ? FT_REASON_DROP_OVERSIZE : FT_REASON_DROP_RING_FULL);
	}
	return error;
}

void ft_gate_emit(struct ft_gate *gate, const void *frame, size_t length)
{
	int error = gate->outlet.send(gate->outlet.context, frame, length);
	if (error)
		ft_gate_note(gate, error == -ENOMEM     ? FT_REASON_DROP_NO_MEMORY
				   : error == -EMSGSIZE ? FT_REASON_DROP_OVERSIZE
							: FT_REASON_DROP_TX_FULL);
}

void ft_gate_lost(struct ft_gate *gate, unsigned frames)
{
	gate->counts[FT_REASON_DROP_TX_FULL] += frames;
}

/* ---- from the wire ---- */

static bool is_for_guest(const struct ft_guest *guest, const uint8_t *frame)
{
	return guest->any_mac || (frame[0] & 1) || !memcmp(frame, guest->mac, 6);
}

/* What is wrapped in what this version does not look into: refused where it may be for a service that enforces, since it
 * would be a way around; let through where it may be for one that only observes. FT_REASON_COUNT: neither. */
static enum ft_reason unseen(enum ft_reason refusal, bool enforced, bool observed)
{
	return enforced ? refusal : observed ? FT_REASON_PASS_UNSEEN : FT_REASON_COUNT;
}

/* The service that a frame to the guest belongs to, whatever it is wrapped in; *why: see unseen. Addresses do not matter:
 * the guest may have more than it told. */
static const struct ft_service *service_of(const struct ft_gate *gate, const struct ft_frame *frame,
					   enum ft_reason *why)
{
	const struct ft_services *services = &gate->services;
	*why = FT_REASON_COUNT;
	if (frame->kind != FT_FRAME_IPV4 && frame->kind != FT_FRAME_IPV6)
		return NULL;
	bool six = frame->kind == FT_FRAME_IPV6;
	if (frame->fragment || frame->extension) {
		/* The port is in another fragment, or behind headers: it may be an inspected one. */
		uint8_t protocol = frame->extension ? 0 : frame->protocol;
		*why = unseen(six ? FT_REASON_REFUSE_IPV6 : FT_REASON_REFUSE_FRAGMENT,
			      ft_services_have(services, protocol, FT_MODE_ENFORCE),
			      ft_services_have(services, protocol, FT_MODE_OBSERVE));
		return NULL;
	}
	if (!frame->transport)
		return NULL;
	const struct ft_service *service =
	    ft_services_find(services, frame->protocol, frame->destination_port);
	if (!service || !(six || frame->vlan || frame->length > FT_FRAME_USUAL))
		return service;
	bool enforced = service->mode == FT_MODE_ENFORCE;
	*why = unseen(six           ? FT_REASON_REFUSE_IPV6
		      : frame->vlan ? FT_REASON_REFUSE_VLAN
				    : FT_REASON_REFUSE_JUMBO,
		      enforced, !enforced);
	return NULL;
}

void ft_gate_wire(struct ft_gate *gate, void *data, size_t length)
{
	struct ft_guest *guest = &gate->guest;
	struct ft_frame frame;
	enum ft_reason why;
	if (length >= FT_FRAME_HEADER && !is_for_guest(guest, data)) {
		ft_gate_note(gate, FT_REASON_DROP_NOT_OURS);
		return;
	}
	if (ft_frame_parse(&frame, data, length, &why)) {
		ft_gate_note(gate, why);
		return;
	}
	const struct ft_service *service = service_of(gate, &frame, &why);
	if (why != FT_REASON_COUNT && why != FT_REASON_PASS_UNSEEN) {
		ft_gate_note(gate, why);
		return;
	}
	if (gate->outlet.kernel_side || service) {
		enum ft_frame_checksum checksum = ft_frame_checksum(&frame);
		if (checksum == FT_CHECKSUM_PARTIAL && gate->outlet.kernel_side) {
			ft_frame_seal(&frame, data);
			gate->partial_checksums++;
		} else if (checksum != FT_CHECKSUM_GOOD && service) {
			ft_gate_note(gate, FT_REASON_DROP_CHECKSUM);
			return;
		}
	}
	/* A receiver takes the byte that the urgent pointer names out of the stream (RFC 6093 section 3), so what patterns
	 * saw would not be what the server reads. Without the pointer the byte stays where it was seen. */
	if (service && service->mode == FT_MODE_ENFORCE && ft_frame_calm(&frame, data))
		gate->urgent_cleared++;
	if (!guest->up)
		ft_gate_note(gate, FT_REASON_DROP_GUEST_DOWN);
	else if (service && frame.protocol == IPPROTO_TCP)
		ft_tcp_client(gate, service, &frame);
	else if (service)
		ft_udp_client(gate, service, &frame);
	else if (!ft_gate_deliver(gate, data, length))
		ft_gate_note(gate, why == FT_REASON_COUNT ? FT_REASON_PASS_UNINSPECTED : why);
}

/* ---- from the guest ---- */

static void from_guest(struct ft_gate *gate, const uint8_t *data, size_t length)
{
	struct ft_frame frame;
	enum ft_reason why;
	if (ft_frame_parse(&frame, data, length, &why)) {
		ft_gate_note(gate, why);
		return;
	}
	if (frame.kind == FT_FRAME_IPV4 && frame.transport && !frame.vlan &&
	    !(frame.protocol == IPPROTO_TCP ? ft_tcp_guest : ft_udp_guest)(gate, &frame))
		return;
	ft_gate_note(gate, FT_REASON_PASS_OUTBOUND);
	ft_gate_emit(gate, data, length);
}

static unsigned take_frames(struct ft_gate *gate, unsigned budget)
{
	unsigned count = 0;
	while (count < budget && gate->guest.up) {
		uint32_t kind;
		long length = ft_ring_get(&gate->guest.link.tx, &kind, gate->scratch, sizeof(gate->scratch));
		if (length == -EAGAIN)
			break;
		if (length < 0) {
			ft_gate_link_broken(gate, "its transmit ring has an impossible index or record");
			break;
		}
		count++;
		if (kind != FT_LINK_FRAME) {
			ft_gate_link_broken(gate, "its transmit ring has a record of an unknown kind");
			break;
		}
		from_guest(gate, gate->scratch, (size_t)length);
	}
	return count;
}

static void record_event(struct ft_gate *gate, const char *type, const char *text, const struct ft_rule *rule)
{
	json_t *record = json_pack("{s:s, s:s, s:s, s:s, s:I}", "op", "event", "type", type, "guest",
				   gate->guest.name, "text", text, "ns", (json_int_t)gate->wall);
	if (record && rule) {
		json_object_set_new(record, "rule", json_string(rule->name));
		json_object_set_new(record, "sid", json_integer(rule->sid));
		json_object_set_new(record, "rev", json_integer(rule->rev));
		json_object_set_new(record, "severity", json_integer((json_int_t)rule->severity));
	}
	if (record)
		gate->outlet.record(gate->outlet.context, record);
	json_decref(record);
}

static void on_correlation(void *context, const struct ft_rule *rule, const struct ft_event *event,
			   const char *const *strings, uint64_t since_ns)
{
	struct ft_gate *gate = context;
	struct ft_guest *guest = &gate->guest;
	if (gate->now >= guest->findings_until) {
		guest->findings_until = gate->now + FINDINGS_NS;
		guest->findings = 0;
	}
	if (guest->findings++ < FINDINGS_MOST)
		record_event(gate, "correlation", rule->text, rule);
	else if (guest->findings == FINDINGS_MOST + 1)
		ft_gate_log(gate, "warning", "guest %s: more findings than %u in %llu s, the rest is not told",
			    guest->name, FINDINGS_MOST, FINDINGS_NS / 1000000000u);
}

static void take_event(struct ft_gate *gate, const uint8_t *record, size_t length)
{
	struct ft_event event;
	const char *strings[FT_EVENT_STRINGS];
	if (ft_event_check(record, length, &event, strings)) {
		ft_gate_link_broken(gate, "it sent an event that is none");
		return;
	}
	if (event.type == FT_EVENT_LOST)
		gate->guest.lost_events += event.a[0];
	if (event.hold)
		ft_hold_event(gate, &event, strings);
	else if (event.role == FT_ROLE_LIVE)
		ft_watch_event(gate->guest.watch, &event, strings, on_correlation, gate);
}

static unsigned take_events(struct ft_gate *gate, unsigned budget)
{
	uint8_t record[FT_EVENT_MAX + 1];
	unsigned count = 0;
	while (count < budget && gate->guest.up) {
		ssize_t n = recv(gate->guest.link.events, record, sizeof(record), MSG_DONTWAIT);
		if (n < 0)
			break;
		if (n == 0) {
			/* Every writer has closed its end: the vmm and all its children are gone. */
			ft_gate_link_broken(gate, "its processes are gone");
			break;
		}
		take_event(gate, record, (size_t)n);
		count++;
	}
	return count;
}

unsigned ft_gate_guest(struct ft_gate *gate, unsigned budget)
{
	if (!gate->guest.up)
		return 0;
	unsigned frames = take_frames(gate, budget), events = 0;
	/* A look costs a system call, so while frames flow it is taken now and then; a sleeper is woken by it. */
	if (gate->guest.up && gate->now >= gate->guest.events_due) {
		events = take_events(gate, budget);
		gate->guest.events_due = events ? 0 : gate->now + EVENTS_NS;
	}
	return frames + events;
}

/* ---- the link ---- */

static void kill_flow(void *context, struct ft_flow *flow)
{
	if (!flow->dead)
		ft_flow_kill(context, flow);
}

/* The guest is no more: what was held for it ends by policy, and its connections are over. */
static void end_link(struct ft_gate *gate, const char *why)
{
	if (!gate->guest.up)
		return;
	gate->guest.up = false;
	ft_holds_end(gate, true, why);
	ft_flows_each(gate->flows, kill_flow, gate);
	ft_link_close(&gate->guest.link);
}

void ft_gate_link_broken(struct ft_gate *gate, const char *why)
{
	if (!gate->guest.up)
		return;
	char text[256];
	snprintf(text, sizeof(text), "the link to guest %s is cut: %s", gate->guest.name, why);
	ft_gate_log(gate, "error", "%s", text);
	record_event(gate, "error", text, NULL);
	end_link(gate, text);
}

int ft_gate_link(struct ft_gate *gate, const char *guest, const int fds[FT_LINK_FDS], struct ft_error *err)
{
	struct ft_link link;
	int error = ft_link_open(&link, FT_LINK_DATAPLANE, fds, err);
	if (error)
		return error;
	if (strcmp(guest, gate->guest.name)) {
		ft_link_close(&link);
		return ft_error_set(err, -ENOENT, "a link for guest \"%.60s\", which is not configured",
				    guest);
	}
	end_link(gate, "the guest was started again");
	gate->guest.link = link;
	gate->guest.up = true;
	return 0;
}

void ft_gate_guest_down(struct ft_gate *gate, const char *guest, const char *why)
{
	if (!guest || strcmp(guest, gate->guest.name) || !gate->guest.up)
		return;
	end_link(gate, why ? why : "the guest is down");
}

/* ---- time ---- */

void ft_gate_time(struct ft_gate *gate, uint64_t monotonic_ns, uint64_t wall_ns)
{
	if (monotonic_ns > gate->now)
		gate->now = monotonic_ns;
	gate->wall = wall_ns;
}

uint64_t ft_gate_tick(struct ft_gate *gate)
{
	struct ft_guest *guest = &gate->guest;
	if (gate->now >= gate->holds.due)
		ft_holds_tick(gate);
	if (gate->now >= gate->next_sweep) {
		ft_flows_sweep(gate->flows, gate->now);
		gate->next_sweep = gate->now + SWEEP_NS;
	}
	/* Commands before frames: the vmm must not take a frame of which a command says "not yet". */
	if (guest->up && guest->kick_cmd)
		ft_ring_kick(&guest->link.cmd);
	if (guest->up && guest->kick)
		ft_ring_kick(&guest->link.rx);
	guest->kick = guest->kick_cmd = false;
	uint64_t due = gate->now + TICK_NS;
	return gate->holds.due < due ? gate->holds.due : due;
}

bool ft_gate_sleep(struct ft_gate *gate, int fds[2])
{
	fds[0] = fds[1] = -1;
	if (!gate->guest.up)
		return true;
	fds[0] = gate->guest.link.wake_own;
	fds[1] = gate->guest.link.events;
	return ft_ring_sleep(&gate->guest.link.tx);
}

void ft_gate_awake(struct ft_gate *gate, const bool readable[2])
{
	if (!gate->guest.up)
		return;
	ft_ring_awake(&gate->guest.link.tx);
	uint64_t count;
	if (readable[0] && read(gate->guest.link.wake_own, &count, sizeof(count)) < 0 && errno != EAGAIN)
		ft_gate_link_broken(gate, "its eventfd is broken");
	/* While it sleeps, the poll tells about events; without a word from it there are none. */
	gate->guest.events_due = readable[1] ? 0 : gate->now + SLEEP_NS;
}

void ft_gate_stop(struct ft_gate *gate)
{
	ft_holds_end(gate, !gate->guest.up, "the gateway stops");
	ft_gate_tick(gate);
}

/* ---- queries ---- */

json_t *ft_gate_counters(const struct ft_gate *gate)
{
	json_t *reasons = json_object();
	for (int i = 0; i < FT_REASON_COUNT; i++)
		if (gate->counts[i])
			json_object_set_new(reasons, ft_reason_label((enum ft_reason)i),
					    json_integer((json_int_t)gate->counts[i]));
	return json_pack("{s:o, s:I, s:I}", "reasons", reasons, "checksums_completed",
			 (json_int_t)gate->partial_checksums, "urgent_cleared",
			 (json_int_t)gate->urgent_cleared);
}

json_t *ft_gate_holds(const struct ft_gate *gate)
{
	return ft_holds_list(gate);
}

json_t *ft_gate_status(const struct ft_gate *gate)
{
	unsigned open = 0;
	for (const struct ft_hold *hold = gate->holds.first; hold; hold = hold->next)
		open += hold->state < FT_HOLD_DEPART;
	return json_pack("{s:s, s:b, s:i, s:i, s:i, s:I, s:I}", "guest", gate->guest.name, "guest_up",
			 gate->guest.up, "flows", (int)ft_flows_count(gate->flows), "holds", (int)open,
			 "clones", (int)gate->holds.running, "held_bytes", (json_int_t)gate->holds.memory,
			 "events_lost", (json_int_t)gate->guest.lost_events);
}

uint64_t ft_gate_count(const struct ft_gate *gate, enum ft_reason reason)
{
	return gate->counts[reason];
}

/* ---- making one ---- */

static int load_guest(const json_t *guests, struct ft_guest *guest, struct ft_error *err)
{
	if (json_object_size(guests) != 1)
		return ft_error_set(err, -EINVAL, "guests: this version runs exactly one, not %zu",
				    json_object_size(guests));
	void *first = json_object_iter((json_t *)(uintptr_t)guests);
	const json_t *json = json_object_iter_value(first);
	const char *name = json_object_iter_key(first);
	const char *mac = json_string_value(json_object_get(json, "mac"));
	const char *address = json_string_value(json_object_get(json, "address"));
	if (strlen(name) >= sizeof(guest->name))
		return ft_error_set(err, -EINVAL, "guest %.20s...: the name is too long", name);
	snprintf(guest->name, sizeof(guest->name), "%s", name);
	guest->any_mac = !mac;
	if (mac && sscanf(mac, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &guest->mac[0], &guest->mac[1],
			  &guest->mac[2], &guest->mac[3], &guest->mac[4], &guest->mac[5]) != 6)
		return ft_error_set(err, -EINVAL, "guest %s: \"%s\" is no MAC address", name, mac);
	if (address && inet_pton(AF_INET, address, &guest->address) != 1)
		return ft_error_set(err, -EINVAL, "guest %s: \"%s\" is no IPv4 address", name, address);
	return 0;
}

static int load_screens(struct ft_gate *gate, const json_t *rules, struct ft_error *err)
{
	json_t *empty = json_array();
	int error = ft_patterns_load(rules ? rules : empty, &gate->patterns, NULL, err);
	json_decref(empty);
	for (size_t i = 0; i < gate->services.count && !error; i++) {
		struct ft_service *service = &gate->services.list[i];
		error =
		    ft_screen_new(gate->patterns, service->sids, service->sid_count, &service->screen, err);
		if (error)
			ft_error_prefix(err, "service %s", service->name);
	}
	return error;
}

static int load_rules(struct ft_gate *gate, const json_t *config, struct ft_error *err)
{
	json_t *empty = json_array();
	const json_t *verdicts = json_object_get(config, "verdict_rules");
	const json_t *correlations = json_object_get(config, "correlation_rules");
	int error =
	    ft_rules_load(verdicts ? verdicts : empty, FT_RULES_VERDICT, &gate->verdict_rules, NULL, err);
	if (!error)
		error = ft_rules_load(correlations ? correlations : empty, FT_RULES_CORRELATION,
				      &gate->correlation_rules, NULL, err);
	json_decref(empty);
	if (error)
		return error;
	error = ft_services_profile(json_object_get(config, "services"), &gate->guest.profile, err);
	if (error)
		return error;
	gate->guest.watch = ft_watch_new(gate->correlation_rules, gate->guest.profile);
	return gate->guest.watch ? 0 : ft_error_set(err, -ENOMEM, "no memory for the correlation rules");
}

static int load_flows(struct ft_gate *gate, const json_t *config, struct ft_error *err)
{
	json_int_t most = DEFAULT_FLOWS;
	const json_t *value = json_object_get(config, "flows");
	if (json_is_integer(value))
		most = json_integer_value(value);
	if (most < LEAST_FLOWS || most > MOST_FLOWS)
		return ft_error_set(err, -EINVAL, "flows: not a number from %u to %u", LEAST_FLOWS,
				    MOST_FLOWS);
	json_int_t first = json_integer_value(json_object_get(config, "first_hold"));
	gate->holds.next_id = first > 0 ? (uint64_t)first : 1;
	return ft_flows_new((uint32_t)most, &gate->flows, err);
}

int ft_gate_new(const json_t *config, const struct ft_gate_outlet *outlet, struct ft_gate **gate,
		struct ft_error *err)
{
	struct ft_gate *made = calloc(1, sizeof(*made));
	if (!made)
		return ft_error_set(err, -ENOMEM, "no memory for the gate");
	made->outlet = *outlet;
	int error = load_guest(json_object_get(config, "guests"), &made->guest, err);
	if (!error)
		error = ft_services_load(json_object_get(config, "services"), &made->services, err);
	if (!error)
		error = ft_budgets_load(json_object_get(config, "clone"), &made->budgets, err);
	if (!error)
		error = load_screens(made, json_object_get(config, "rules"), err);
	if (!error)
		error = load_rules(made, config, err);
	if (!error)
		error = ft_inspect_new(&made->inspect, err);
	if (!error)
		error = load_flows(made, config, err);
	if (error) {
		ft_gate_free(made);
		return error;
	}
	*gate = made;
	return 0;
}

void ft_gate_free(struct ft_gate *gate)
{
	if (!gate)
		return;
	if (gate->flows)
		end_link(gate, "the gateway stops");
	ft_holds_tick(gate);
	ft_flows_free(gate->flows);
	for (size_t i = 0; i < gate->services.count; i++)
		ft_screen_free(gate->services.list[i].screen);
	ft_services_free(&gate->services);
	ft_patterns_free(gate->patterns);
	ft_watch_free(gate->guest.watch);
	ft_profile_free(gate->guest.profile);
	ft_rules_free(gate->verdict_rules);
	ft_rules_free(gate->correlation_rules);
	ft_inspect_free(gate->inspect);
	free(gate);
}
