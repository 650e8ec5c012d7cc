#include "dataplane/gate.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "dataplane/batch.h"
#include "dataplane/cut.h"
#include "dataplane/gate-t.h"
#include "dataplane/hold.h"
#include "dataplane/reload.h"
#include "dataplane/icmp.h"
#include "dataplane/tcp.h"
#include "dataplane/udp.h"

#define TICK_NS  1000000000ull
#define SWEEP_NS 10000000ull /* 64 entries in 10 ms: a table of 65536 flows in ten seconds */

#define HELD_MOST (64ull << 20) /* bytes of all holds together; each guest has an equal share */

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

/* What the pieces of a frame that is cut need beyond its own bytes: each its headers and its record's. */
#define CUT_ROOM (FT_CUT_PIECES * (FT_FRAME_HEADERS + 16))

bool ft_gate_has_room(struct ft_guest *guest, size_t length)
{
	if (length > guest->mtu + FT_FRAME_HEADER)
		length += CUT_ROOM;
	return guest->up && ft_ring_room(&guest->link.rx) >= length;
}

static int put(struct ft_gate *gate, struct ft_guest *guest, const void *frame, size_t length)
{
	struct iovec parts[2] = {{.iov_base = (void *)(uintptr_t)frame, .iov_len = length}, {0}};
	/* Whether it is the very frame that the stamp is about, or one of ours that it brought about, is found by whoever gets it. */
	if (gate->stamp) {
		parts[1] = parts[0];
		parts[0] = (struct iovec){.iov_base = (void *)(uintptr_t)gate->stamp, .iov_len = sizeof(*gate->stamp)};
	}
	int error = ft_ring_put(&guest->link.rx, gate->stamp ? FT_LINK_FRAME_STAMPED : FT_LINK_FRAME, parts, gate->stamp ? 2 : 1);
	if (!error) {
		guest->kick = true;
		return 0;
	}
	if (error == -EPROTO) {
		ft_gate_note(gate, FT_REASON_DROP_GUEST_DOWN);
		ft_gate_link_broken(gate, guest, "its receive ring has an impossible index");
	} else {
		ft_gate_note(gate, error == -EMSGSIZE ? FT_REASON_DROP_OVERSIZE : FT_REASON_DROP_RING_FULL);
	}
	return error;
}

int ft_gate_deliver(struct ft_gate *gate, struct ft_guest *guest, const void *frame, size_t length)
{
	if (!guest->up) {
		ft_gate_note_absent(gate, guest);
		return -ENOTCONN;
	}
	unsigned pieces = ft_cut_pieces(frame, length, guest->mtu);
	if (pieces == 1)
		return put(gate, guest, frame, length);
	if (!pieces) {
		ft_gate_note(gate, FT_REASON_DROP_OVERSIZE);
		return -EMSGSIZE;
	}
	/* A guest that got half of a datagram would keep it and wait. */
	if (!ft_gate_has_room(guest, length)) {
		ft_gate_note(gate, FT_REASON_DROP_RING_FULL);
		return -ENOBUFS;
	}
	int error = 0;
	for (unsigned n = 0; n < pieces && !error; n++)
		error = put(gate, guest, gate->piece, ft_cut_piece(frame, length, guest->mtu, n, gate->piece));
	return error;
}

static void send_to_uplink(struct ft_gate *gate, unsigned uplink, const void *frame, size_t length)
{
	int error = gate->outlet.send(gate->outlet.context, uplink, frame, length);
	if (error)
		ft_gate_note(gate, error == -ENOMEM     ? FT_REASON_DROP_NO_MEMORY
				   : error == -EMSGSIZE ? FT_REASON_DROP_OVERSIZE
							: FT_REASON_DROP_TX_FULL);
}

static bool distribute(struct ft_gate *gate, unsigned uplink, uint8_t *data, size_t length,
		       const struct ft_guest *sender);

/* A guest's frame as it looks on its uplink: to a guest beside it, or out, or both. */
static void put_out(struct ft_gate *gate, const struct ft_guest *guest, uint8_t *data, size_t length)
{
	bool group = data[0] & 1;
	if (!group && gate->guest_count > 1 && distribute(gate, guest->uplink, data, length, guest))
		return;
	send_to_uplink(gate, guest->uplink, data, length);
	if (group && gate->guest_count > 1)
		distribute(gate, guest->uplink, data, length, guest);
}

static bool has_own_tag(const struct ft_guest *guest)
{
	return guest->vlan != FT_FDB_UNTAGGED && guest->vlan != FT_FDB_TRUNK;
}

void ft_gate_emit(struct ft_gate *gate, struct ft_guest *guest, const void *frame, size_t length)
{
	uint8_t copy[4 + FT_FRAME_USUAL], *data = copy + 4;
	if (length > FT_FRAME_USUAL) {
		ft_gate_note(gate, FT_REASON_DROP_OVERSIZE);
		return;
	}
	memcpy(data, frame, length);
	struct ft_frame parsed;
	enum ft_reason why;
	if (guest->has_canary && !ft_frame_parse(&parsed, data, length, &why) && ft_canary_takes(gate, guest, &parsed))
		return;
	if (has_own_tag(guest))
		data = ft_fdb_tag(data, &length, guest->vlan);
	put_out(gate, guest, data, length);
}

void ft_gate_lost(struct ft_gate *gate, unsigned frames)
{
	gate->counts[FT_REASON_DROP_TX_FULL] += frames;
}

/* ---- from the wire ---- */

/* The service that a frame to the guest belongs to. *why: FT_REASON_COUNT, or what became of a frame that belongs to none.
 * Addresses do not matter: the guest may have more than it told. */
static const struct ft_service *service_of(const struct ft_gate *gate, const struct ft_guest *guest,
					   const struct ft_frame *frame, enum ft_reason *why)
{
	const struct ft_services *services = &gate->services;
	struct ft_frame_quote quote;
	*why = FT_REASON_COUNT;
	if (frame->transport) {
		const struct ft_service *service =
		    ft_services_find(services, guest->index, frame->protocol, frame->destination_port);
		if (!service && gate->retired)
			service = ft_reload_retired(gate, guest->index, frame->protocol, frame->destination_port);
		return service;
	}
	if (frame->extension || frame->fragment) {
		/* The port may be an inspected one. Fragments come here where no service enforces. */
		uint8_t protocol = frame->extension ? 0 : frame->protocol;
		if (frame->extension && ft_services_have(services, guest->index, 0, FT_MODE_ENFORCE))
			*why = FT_REASON_REFUSE_EXTENSION;
		else if (ft_services_have(services, guest->index, protocol, FT_MODE_OBSERVE))
			*why = FT_REASON_PASS_UNSEEN;
		else if (ft_services_have(services, guest->index, protocol, FT_MODE_BYPASS))
			*why = FT_REASON_PASS_BYPASS;
	} else if (frame->ipsec) {
		*why = FT_REASON_PASS_IPSEC;
	} else if (ft_frame_is_error(frame, &quote)) {
		*why = ft_icmp_judge(gate, guest, frame, &quote);
	}
	return NULL;
}

static bool passes(enum ft_reason why)
{
	return why == FT_REASON_COUNT || ft_reason_action(why) == FT_REASON_ACTION_PASS;
}

/* What no service inspects goes on as it came: a datagram as its fragments, all of them or none. */
static void pass_on(struct ft_gate *gate, struct ft_guest *guest, const struct ft_frame *frame, const struct ft_datagram *datagram,
		    enum ft_reason reason)
{
	if (!datagram) {
		if (!ft_gate_deliver(gate, guest, frame->data, frame->length))
			ft_gate_note(gate, reason);
		return;
	}
	size_t length = 0;
	for (unsigned i = 0; i < datagram->count; i++)
		length += datagram->list[i].length + 16;
	if (ft_ring_room(&guest->link.rx) < length) {
		ft_gate_note_many(gate, FT_REASON_DROP_RING_FULL, datagram->count);
		return;
	}
	for (unsigned i = 0; i < datagram->count; i++)
		if (!put(gate, guest, datagram->list[i].data, datagram->list[i].length))
			ft_gate_note(gate, reason);
}

/* data: the frame's bytes. datagram: what they were put together from, or NULL. */
static void handle(struct ft_gate *gate, struct ft_guest *guest, struct ft_frame *frame, uint8_t *data,
		   const struct ft_datagram *datagram)
{
	enum ft_reason why;
	bool kernel_side = gate->outlet.kernel_side >> guest->uplink & 1;
	/* Asked before each call: this is the way of every packet. */
	if (guest->has_canary && ft_canary_is_forged(gate, guest, frame)) {
		ft_gate_note(gate, FT_REASON_DROP_CANARY_ADDRESS);
		return;
	}
	const struct ft_service *service = service_of(gate, guest, frame, &why);
	if (gate->canary.injecting)
		service = ft_canary_service(gate, service);
	if (!passes(why)) {
		ft_gate_note(gate, why);
		return;
	}
	if (kernel_side || service) {
		enum ft_frame_checksum checksum = ft_frame_checksum(frame);
		if (checksum == FT_CHECKSUM_PARTIAL && kernel_side) {
			ft_frame_seal(frame, data);
			gate->partial_checksums++;
		} else if (checksum != FT_CHECKSUM_GOOD && service && service->acting != FT_MODE_BYPASS) {
			ft_gate_note(gate, FT_REASON_DROP_CHECKSUM);
			return;
		}
	}
	if (service && frame->odd_options) {
		/* Who follows a connection cannot follow such a segment; where nobody does, it is the guest's business. */
		if (service->acting != FT_MODE_BYPASS)
			ft_gate_note(gate, FT_REASON_DROP_MALFORMED);
		else
			pass_on(gate, guest, frame, datagram, ft_service_unlooked(service));
		return;
	}
	/* A receiver takes the byte that the urgent pointer names out of the stream (RFC 6093 section 3), so what patterns
	 * saw would not be what the server reads. Without the pointer the byte stays where it was seen. */
	if (service && service->acting == FT_MODE_ENFORCE && ft_frame_calm(frame, data))
		gate->urgent_cleared++;
	if (!guest->up)
		ft_gate_note_absent(gate, guest);
	else if (service && frame->protocol == IPPROTO_TCP)
		ft_tcp_client(gate, guest, service, frame);
	else if (service)
		ft_udp_client(gate, guest, service, frame);
	else
		pass_on(gate, guest, frame, datagram, why == FT_REASON_COUNT ? FT_REASON_PASS_UNINSPECTED : why);
}

/* May the fragment be part of something that is inspected? Of IPv6 only the first one of a datagram tells, and a stack puts
 * them together whatever they say; of IPv4 all tell, and errors are looked at, too. */
static bool is_collected(const struct ft_gate *gate, const struct ft_guest *guest, const struct ft_frame *frame)
{
	bool any = frame->kind == FT_FRAME_IPV6 || frame->protocol == IPPROTO_ICMP;
	return ft_services_have(&gate->services, guest->index, any ? 0 : frame->protocol, FT_MODE_ENFORCE);
}

static void take_fragment(struct ft_gate *gate, struct ft_guest *guest, const struct ft_frame *fragment)
{
	struct ft_datagram datagram;
	struct ft_frame whole;
	unsigned lost;
	enum ft_reason why = ft_reassembly_take(gate->reassembly, guest->index, fragment, gate->now, &datagram, &lost);
	if (why != FT_REASON_COUNT) {
		ft_gate_note(gate, why);
		ft_gate_note_many(gate, why, lost);
	} else if (ft_frame_parse(&whole, datagram.data, datagram.length, &why)) {
		ft_gate_note(gate, why);
	} else {
		handle(gate, guest, &whole, datagram.data, &datagram);
	}
}

/* Larger than what the guest takes, but a router in our place would cut it. The kernel, too, puts IPv4 fragments together
 * before DPDK's driver for its interfaces sees them (it asks for that), and then this is how they get to the guest. */
static bool may_be_cut(struct ft_gate *gate, const struct ft_guest *guest, const struct ft_frame *frame, uint8_t *data)
{
	if (frame->length > FT_FRAME_MOST || !ft_cut_pieces(data, frame->length, guest->mtu))
		return false;
	ft_reassembly_rename(gate->reassembly, frame, data);
	return true;
}

/* One frame to one guest, be it from the wire or from the guest beside it. */
static void to_guest(struct ft_gate *gate, struct ft_guest *guest, uint8_t *data, size_t length)
{
	struct ft_frame frame;
	enum ft_reason why;
	if (ft_frame_parse(&frame, data, length, &why))
		ft_gate_note(gate, why);
	else if (length > guest->mtu + frame.ip && !may_be_cut(gate, guest, &frame, data))
		ft_gate_note(gate, FT_REASON_DROP_OVERSIZE);
	else if (frame.fragment && is_collected(gate, guest, &frame))
		take_fragment(gate, guest, &frame);
	else
		handle(gate, guest, &frame, data, NULL);
}

static void to_member(struct ft_gate *gate, struct ft_guest *guest, uint8_t *data, size_t length)
{
	struct ft_guest *before = gate->about;
	gate->about = guest;
	to_guest(gate, guest, data, length);
	gate->about = before;
}

/* Gives a frame to the guests of its VLAN that it is for, except the one that sent it. False: there is none, and the
 * frame is as it was. */
static bool distribute(struct ft_gate *gate, unsigned uplink, uint8_t *data, size_t length,
		       const struct ft_guest *sender)
{
	unsigned vlan = ft_fdb_vlan(data, length);
	if (!(data[0] & 1)) {
		int at = ft_fdb_find(&gate->fdb, uplink, vlan, data);
		if (at < 0 || &gate->guests[at] == sender)
			return false;
		if (gate->guests[at].vlan != FT_FDB_TRUNK)
			data = ft_fdb_untag(data, &length);
		to_member(gate, &gate->guests[at], data, length);
		return true;
	}
	bool any = false;
	/* Trunks first: they get the tag that the others do not see. */
	for (int trunks = 1; trunks >= 0; trunks--) {
		if (!trunks)
			data = ft_fdb_untag(data, &length);
		for (unsigned i = 0; i < gate->guest_count; i++) {
			struct ft_guest *guest = &gate->guests[i];
			if (guest == sender || (guest->vlan == FT_FDB_TRUNK) != trunks ||
			    !ft_fdb_member(&gate->fdb, i, uplink, vlan))
				continue;
			to_member(gate, guest, data, length);
			any = true;
		}
	}
	return any;
}

/* Does the frame look like one of a flow? Flows are those of services. */
static bool guess(const struct ft_gate *gate, uint8_t guest, const uint8_t *frame, size_t length,
		  bool from_client, struct ft_flow_key *key)
{
	return ft_flow_key_guess(key, guest, frame, length, from_client) &&
	       ft_services_find(&gate->services, guest, key->protocol, key->server_port);
}

void ft_gate_ahead(struct ft_gate *gate, unsigned uplink, uint8_t *const *frames, const uint32_t *lengths,
		   unsigned count)
{
	struct ft_flow_key keys[FT_GATE_AHEAD];
	unsigned known = 0;
	_Static_assert(FT_GATE_AHEAD <= FT_FLOWS_AHEAD, "one lookup");
	for (unsigned i = 0; i < count && i < FT_GATE_AHEAD; i++) {
		if (lengths[i] < FT_FRAME_HEADER || (frames[i][0] & 1))
			continue;
		int guest = ft_fdb_find(&gate->fdb, uplink, FT_FDB_UNTAGGED, frames[i]);
		if (guest >= 0)
			known += guess(gate, (uint8_t)guest, frames[i], lengths[i], true, &keys[known]);
	}
	ft_flows_ahead(gate->flows, keys, known);
}

void ft_gate_wire(struct ft_gate *gate, unsigned uplink, void *data, size_t length)
{
	if (length < FT_FRAME_HEADER)
		ft_gate_note(gate, FT_REASON_DROP_RUNT);
	else if (!distribute(gate, uplink, data, length, NULL))
		ft_gate_note(gate, FT_REASON_DROP_NOT_OURS);
}

/* ---- from the guests ---- */

/* May the guest send this under this address and with this tag? */
static bool is_its_own(struct ft_gate *gate, const struct ft_guest *guest, uint8_t **data, size_t *length)
{
	if (!guest->any_mac && memcmp(*data + 6, guest->mac, 6)) {
		ft_gate_note(gate, FT_REASON_DROP_SPOOFED);
		return false;
	}
	if (guest->vlan == FT_FDB_TRUNK)
		return true;
	if (ft_fdb_vlan(*data, *length) != FT_FDB_UNTAGGED) {
		ft_gate_note(gate, FT_REASON_DROP_GUEST_TAG);
		return false;
	}
	*data = ft_fdb_untag(*data, length); /* a priority */
	return true;
}

void ft_gate_ahead_outbound(struct ft_gate *gate, const struct ft_guest *guest, uint8_t *const *frames,
			    const uint32_t *lengths, unsigned count)
{
	struct ft_flow_key keys[FT_GATE_AHEAD];
	unsigned known = 0;
	for (unsigned i = 0; i < count && i < FT_GATE_AHEAD; i++)
		known += guess(gate, guest->index, frames[i], lengths[i], false, &keys[known]);
	ft_flows_ahead(gate->flows, keys, known);
}

/* Flows are those of services: a guest's own connections do without a look-up, which would wait for memory. */
static bool may_have_flow(const struct ft_gate *gate, const struct ft_guest *guest, const struct ft_frame *frame)
{
	return gate->retired || ft_services_find(&gate->services, guest->index, frame->protocol, frame->source_port);
}

void ft_gate_outbound(struct ft_gate *gate, struct ft_guest *guest, uint8_t *data, size_t length)
{
	struct ft_frame frame;
	enum ft_reason why;
	if (length >= FT_FRAME_HEADER && !is_its_own(gate, guest, &data, &length))
		return;
	if (ft_frame_parse(&frame, data, length, &why)) {
		ft_gate_note(gate, why);
		return;
	}
	if (frame.transport && may_have_flow(gate, guest, &frame) &&
	    !(frame.protocol == IPPROTO_TCP ? ft_tcp_guest : ft_udp_guest)(gate, guest, &frame))
		return;
	if (guest->has_canary && ft_canary_takes(gate, guest, &frame))
		return;
	ft_gate_note(gate, FT_REASON_PASS_OUTBOUND);
	if (has_own_tag(guest))
		data = ft_fdb_tag(data, &length, guest->vlan);
	put_out(gate, guest, data, length);
}

void ft_gate_record(struct ft_gate *gate, const struct ft_guest *guest, const char *type, const char *text,
		    const struct ft_rule *rule)
{
	json_t *record = json_pack("{s:s, s:s, s:s, s:s, s:I}", "op", "event", "type", type, "guest",
				   guest->name, "text", text, "ns", (json_int_t)gate->wall);
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

/* ---- time ---- */

void ft_gate_time(struct ft_gate *gate, uint64_t monotonic_ns, uint64_t wall_ns)
{
	bool first = !gate->now;
	if (monotonic_ns > gate->now)
		gate->now = monotonic_ns;
	gate->wall = wall_ns;
	for (size_t i = 0; first && i < gate->services.count; i++)
		if (gate->services.list[i].mode == FT_MODE_SHADOW)
			ft_shadow_begin(gate->services.list[i].shadow, gate->now, gate->wall);
}

uint64_t ft_gate_tick(struct ft_gate *gate)
{
	if (gate->now >= gate->canary.due)
		ft_canary_tick(gate);
	if (gate->now >= gate->holds.due)
		ft_holds_tick(gate);
	if (gate->now >= gate->early_due)
		ft_earlies_tick(gate);
	if (gate->retired)
		ft_reload_tick(gate);
	if (gate->now >= gate->next_sweep) {
		ft_flows_sweep(gate->flows, gate->now);
		gate->counts[FT_REASON_DROP_FRAGMENT_TIMEOUT] += ft_reassembly_expire(gate->reassembly, gate->now);
		gate->next_sweep = gate->now + SWEEP_NS;
	}
	/* Commands before frames: the vmm must not take a frame of which a command says "not yet". */
	for (unsigned i = 0; i < gate->guest_count; i++) {
		struct ft_guest *guest = &gate->guests[i];
		if (guest->up && guest->kick_cmd)
			ft_ring_kick(&guest->link.cmd);
		if (guest->up && guest->kick)
			ft_ring_kick(&guest->link.rx);
		guest->kick = guest->kick_cmd = false;
	}
	uint64_t due = gate->now + TICK_NS;
	if (gate->canary.due < due)
		due = gate->canary.due;
	if (gate->early_due < due)
		due = gate->early_due;
	return gate->holds.due < due ? gate->holds.due : due;
}

void ft_gate_stop(struct ft_gate *gate)
{
	for (unsigned i = 0; i < gate->guest_count; i++) {
		gate->about = &gate->guests[i];
		ft_earlies_end(gate->about, FT_REASON_DROP_EARLY_END);
		ft_holds_end(gate, gate->about, !gate->about->up, "the gateway stops");
	}
	gate->about = NULL;
	ft_gate_tick(gate);
}

/* ---- queries ---- */

static json_t *reasons_of(const struct ft_gate *gate, const struct ft_guest *guest)
{
	json_t *reasons = json_object();
	for (int i = 0; i < FT_REASON_COUNT; i++) {
		uint64_t count = guest ? guest->counts[i] : ft_gate_count(gate, (enum ft_reason)i);
		if (count)
			json_object_set_new(reasons, ft_reason_label((enum ft_reason)i),
					    json_integer((json_int_t)count));
	}
	return reasons;
}

json_t *ft_gate_holds(const struct ft_gate *gate)
{
	return ft_holds_list(gate);
}

static json_t *guest_status(const struct ft_gate *gate, const struct ft_guest *guest)
{
	unsigned open = 0;
	for (const struct ft_hold *hold = gate->holds.first; hold; hold = hold->next)
		open += hold->guest == guest && hold->state < FT_HOLD_OVER && !hold->flow->service->canary;
	json_t *status = json_pack("{s:b, s:b, s:i, s:i, s:i, s:I, s:I}", "up", guest->up, "isolated", guest->isolated, "flows",
				   (int)ft_flows_of(gate->flows, guest->index), "holds", (int)open, "clones",
				   (int)guest->clones, "held_bytes", (json_int_t)guest->held, "events_lost",
				   (json_int_t)guest->lost_events);
	ft_batch_tell(&guest->batch_counts, status);
	return status;
}

static json_t *service_status(const struct ft_service *service)
{
	const struct ft_tally *tally = service->tally;
	json_t *limits = json_object(), *exceptions = json_object();
	for (unsigned i = 0; i < FT_LIMIT_COUNT; i++)
		json_object_set_new(limits, ft_limit_name((enum ft_limit)i),
				    json_integer((json_int_t)tally->limits[i]));
	for (unsigned i = 0; i < FT_EXCEPTION_COUNT; i++)
		json_object_set_new(exceptions, ft_exception_name((enum ft_exception)i),
				    json_integer((json_int_t)tally->exceptions[i]));
	json_t *status = json_pack("{s:s, s:s, s:b, s:i, s:i, s:I, s:o, s:o}", "guest", service->guest, "mode",
				   ft_service_mode_name(service->mode), "bypass",
				   service->acting == FT_MODE_BYPASS, "holds", (int)tally->open, "clones",
				   (int)tally->clones, "held_bytes", (json_int_t)tally->held, "limits", limits,
				   "exceptions", exceptions);
	ft_outcome_tell(&tally->outcomes, status);
	return status;
}

static json_t *services_status(const struct ft_gate *gate)
{
	json_t *services = json_object();
	for (size_t i = 0; i < gate->services.count; i++)
		json_object_set_new(services, gate->services.list[i].name,
				    service_status(&gate->services.list[i]));
	return services;
}

json_t *ft_gate_counters(const struct ft_gate *gate)
{
	json_t *guests = json_object();
	for (unsigned i = 0; i < gate->guest_count; i++)
		json_object_set_new(guests, gate->guests[i].name,
				    json_pack("{s:o}", "reasons", reasons_of(gate, &gate->guests[i])));
	return json_pack("{s:o, s:o, s:o, s:I, s:I}", "reasons", reasons_of(gate, NULL), "services",
			 services_status(gate), "guests", guests,
			 "checksums_completed", (json_int_t)gate->partial_checksums, "urgent_cleared",
			 (json_int_t)gate->urgent_cleared);
}

json_t *ft_gate_status(const struct ft_gate *gate, bool counters)
{
	static const char *const sums[] = {"flows", "holds", "clones", "held_bytes", "events_lost"};
	json_t *status = json_object(), *guests = json_object();
	for (size_t k = 0; k < sizeof(sums) / sizeof(*sums); k++)
		json_object_set_new(status, sums[k], json_integer(0));
	for (unsigned i = 0; i < gate->guest_count; i++) {
		json_t *one = guest_status(gate, &gate->guests[i]);
		for (size_t k = 0; k < sizeof(sums) / sizeof(*sums); k++) {
			json_t *sum = json_object_get(status, sums[k]);
			json_integer_set(sum, json_integer_value(sum) +
						  json_integer_value(json_object_get(one, sums[k])));
		}
		json_object_set_new(guests, gate->guests[i].name, one);
	}
	json_object_set_new(status, "guests", guests);
	json_object_set_new(status, "services", services_status(gate));
	json_object_set_new(status, "bypass", json_boolean(gate->bypass));
	json_object_set_new(status, "decisions", ft_decisions_status(&gate->decisions));
	if (counters) {
		json_t *own = ft_gate_counters(gate);
		json_object_del(own, "services"); /* are there already, and messages are bounded */
		json_object_set_new(status, "counters", own);
	}
	return status;
}

void ft_gate_durable(struct ft_gate *gate, const struct ft_durable *page)
{
	gate->decisions.page = page;
}

uint64_t ft_gate_count(const struct ft_gate *gate, enum ft_reason reason)
{
	uint64_t count = gate->counts[reason];
	for (unsigned i = 0; i < gate->guest_count; i++)
		count += gate->guests[i].counts[reason];
	return count;
}

/* ---- making one ---- */

/* The place of an uplink in the configuration; the first one when the guest names none. -1: there is no such uplink. */
static int uplink_index(const json_t *uplinks, const char *name)
{
	int at = 0;
	const char *key;
	json_t *value;
	json_object_foreach((json_t *)(uintptr_t)uplinks, key, value)
	{
		if (!name || !strcmp(key, name))
			return at;
		at++;
	}
	return name ? -1 : 0;
}

static int load_vlan(const json_t *value, uint16_t *vlan, struct ft_error *err)
{
	const char *word = json_string_value(value);
	json_int_t number = json_integer_value(value);
	*vlan = FT_FDB_UNTAGGED;
	if (!value || (word && !strcmp(word, "untagged")))
		return 0;
	if (word && !strcmp(word, "trunk"))
		*vlan = FT_FDB_TRUNK;
	else if (json_is_integer(value) && number >= 1 && number <= FT_FDB_VLANS)
		*vlan = (uint16_t)number;
	else
		return ft_error_set(err, -EINVAL, "vlan: neither untagged, trunk, nor a number from 1 to %u",
				    FT_FDB_VLANS);
	return 0;
}

static int load_guest(const json_t *json, const char *name, const json_t *uplinks, struct ft_guest *guest,
		      struct ft_error *err)
{
	const char *mac = json_string_value(json_object_get(json, "mac"));
	const json_t *mtu = json_object_get(json, "mtu");
	json_int_t number = json_is_integer(mtu) ? json_integer_value(mtu) : FT_GUEST_MTU;
	int uplink = uplink_index(uplinks, json_string_value(json_object_get(json, "uplink")));
	if (strlen(name) >= sizeof(guest->name))
		return ft_error_set(err, -EINVAL, "the name is too long");
	snprintf(guest->name, sizeof(guest->name), "%s", name);
	if (uplink < 0 || uplink >= (int)FT_GATE_UPLINKS)
		return ft_error_set(err, -EINVAL, "uplink: there is none of that name");
	guest->uplink = (uint8_t)uplink;
	guest->any_mac = !mac;
	if (mac && sscanf(mac, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &guest->mac[0], &guest->mac[1],
			  &guest->mac[2], &guest->mac[3], &guest->mac[4], &guest->mac[5]) != 6)
		return ft_error_set(err, -EINVAL, "\"%s\" is no MAC address", mac);
	if (number < FT_GUEST_MTU_LEAST || number > FT_GUEST_MTU_MOST)
		return ft_error_set(err, -EINVAL, "mtu: not a number from %u to %u", FT_GUEST_MTU_LEAST, FT_GUEST_MTU_MOST);
	guest->mtu = (uint32_t)number;
	return load_vlan(json_object_get(json, "vlan"), &guest->vlan, err);
}

static int load_guests(struct ft_gate *gate, const json_t *config, struct ft_error *err)
{
	json_t *guests = json_object_get(config, "guests"), *json;
	const char *name;
	if (!json_object_size(guests) || json_object_size(guests) > FT_GATE_GUESTS)
		return ft_error_set(err, -EINVAL, "guests: not between 1 and %u of them", FT_GATE_GUESTS);
	gate->guests = calloc(json_object_size(guests), sizeof(*gate->guests));
	if (!gate->guests)
		return ft_error_set(err, -ENOMEM, "no memory for the guests");
	json_object_foreach(guests, name, json)
	{
		struct ft_guest *guest = &gate->guests[gate->guest_count];
		guest->index = (uint8_t)gate->guest_count++;
		ft_earlies_begin(&guest->early);
		int error = load_guest(json, name, json_object_get(config, "uplinks"), guest, err);
		if (!error)
			error = ft_fdb_add(&gate->fdb, guest->uplink, guest->vlan,
					   guest->any_mac ? NULL : guest->mac, err);
		if (error) {
			ft_error_prefix(err, "guest %s", name);
			return error;
		}
	}
	gate->holds.memory_most = HELD_MOST / gate->guest_count;
	return 0;
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
	gate->holds.next_batch = 1;
	if (getrandom(&gate->holds.salt, sizeof(gate->holds.salt), 0) != sizeof(gate->holds.salt))
		gate->holds.salt = (uintptr_t)gate; /* as unknown outside */
	int error = ft_decisions_load(&gate->decisions, config, err);
	return error ? error : ft_flows_new((uint32_t)most, (uint32_t)most / gate->guest_count, &gate->flows, err);
}

int ft_gate_new(const json_t *config, const struct ft_gate_outlet *outlet, struct ft_gate **gate,
		struct ft_error *err)
{
	struct ft_gate *made = calloc(1, sizeof(*made));
	if (!made)
		return ft_error_set(err, -ENOMEM, "no memory for the gate");
	made->outlet = *outlet;
	made->bypass = json_is_true(json_object_get(config, "bypass"));
	int error = load_guests(made, config, err);
	struct ft_rulebook *book = NULL;
	if (!error)
		error = ft_rulebook_new(config, &book, err);
	if (!error)
		ft_reload_first(made, book);
	if (!error)
		error = ft_inspect_new(&made->inspect, err);
	if (!error)
		error = load_flows(made, config, err);
	if (!error)
		error = ft_reassembly_new(&made->reassembly, err);
	if (!error)
		error = ft_suppressions_load(&made->suppressions, json_object_get(config, "suppressions"), err);
	if (!error)
		error = ft_canary_open(made, made->book->canary_config, err);
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
	for (unsigned i = 0; gate->flows && i < gate->guest_count; i++)
		ft_gate_end_link(gate, &gate->guests[i], "the gateway stops");
	ft_holds_tick(gate);
	ft_flows_free(gate->flows);
	ft_canary_close(&gate->canary);
	ft_reassembly_free(gate->reassembly);
	ft_suppressions_free(&gate->suppressions);
	free(gate->guests);
	free(gate->holds.waiting);
	ft_reload_free(gate);
	ft_inspect_free(gate->inspect);
	free(gate);
}
