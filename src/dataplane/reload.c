#include "dataplane/reload.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/gate-t.h"
#include "dataplane/order.h"

static void put_in_force(struct ft_gate *gate, struct ft_rulebook *book)
{
	gate->book = book;
	gate->services = book->services;
	gate->budgets = book->budgets;
	gate->patterns = book->patterns;
	gate->verdict_rules = book->verdict_rules;
	gate->correlation_rules = book->correlation_rules;
	gate->canary = book->canary;
	for (unsigned i = 0; i < gate->guest_count; i++) {
		gate->guests[i].profile = book->profiles[i];
		gate->guests[i].watch = book->watches[i];
	}
	ft_services_act(&gate->services, gate->bypass);
}

void ft_reload_first(struct ft_gate *gate, struct ft_rulebook *book)
{
	put_in_force(gate, book);
}

/* The service of the old book in the new one. Names alone are not enough: connections are found by port. */
static struct ft_service *successor(const struct ft_rulebook *book, const struct ft_service *old)
{
	for (size_t i = 0; i < book->services.count; i++) {
		struct ft_service *service = &book->services.list[i];
		if (!strcmp(service->name, old->name) && service->guest_index == old->guest_index &&
		    service->protocol == old->protocol && service->port == old->port)
			return service;
	}
	return NULL;
}

/* What it has counted, and what is under way, goes on under the new one. */
static void hand_over(struct ft_gate *gate, struct ft_service *old, struct ft_service *service)
{
	struct ft_tally *tally = service->tally;
	struct ft_shadow *shadow = service->shadow;
	service->tally = old->tally;
	service->shadow = old->shadow;
	old->tally = tally;
	old->shadow = shadow;
	enum ft_service_mode to = service->mode;
	service->mode = old->mode;
	ft_order_mode(gate, service, to);
}

struct moving {
	struct ft_gate *gate;
	struct ft_rulebook *from; /* NULL: any that is not `to` */
	struct ft_rulebook *to;   /* NULL: none */
};

static bool is_of(const struct ft_rulebook *book, const struct ft_service *service)
{
	if (service->canary)
		service = service->canary->service;
	return service >= book->services.list && service < book->services.list + book->services.count;
}

static void move_flow(void *context, struct ft_flow *flow)
{
	struct moving *moving = context;
	if (moving->from ? !is_of(moving->from, flow->service) : is_of(moving->to, flow->service))
		return;
	/* A self-test stays with the service as it was, to its end. */
	bool stays = !moving->to || flow->service->canary;
	struct ft_service *service = stays ? NULL : successor(moving->to, flow->service);
	if (flow->scan && !(flow->service->canary && flow->hold))
		ft_screen_end(flow->service->screen, &flow->scan);
	if (service)
		flow->service = service;
	else if (!flow->hold && !flow->observing)
		ft_flows_remove(moving->gate->flows, flow);
}

int ft_gate_reload(struct ft_gate *gate, struct ft_rulebook *book, struct ft_error *err)
{
	bool same = book->guest_count == gate->guest_count;
	for (unsigned i = 0; i < gate->guest_count && same; i++)
		same = !strcmp(book->guests[i], gate->guests[i].name);
	if (!same) {
		ft_rulebook_free(book);
		return ft_error_set(err, -EINVAL, "other guests than before");
	}
	struct ft_rulebook *old = gate->book;
	struct moving moving = {gate, NULL, book};
	old->canary = gate->canary;
	put_in_force(gate, book);
	for (size_t i = 0; i < old->services.count; i++) {
		struct ft_service *gone = &old->services.list[i], *service = successor(book, gone);
		if (service)
			hand_over(gate, gone, service);
		if (!service) {
			gone->acting = FT_MODE_BYPASS; /* but what has a hold stays behind it: see tcp.c */
			gone->retired = true;
		}
	}
	ft_services_act(&gate->services, gate->bypass);
	ft_canary_reopen(gate, &old->canary, book->canary_config);
	ft_flows_each(gate->flows, move_flow, &moving);
	ft_earlies_wake(gate);
	old->next = gate->retired;
	gate->retired = old;
	gate->holds.due = 0;
	return 0;
}

void ft_reload_tick(struct ft_gate *gate)
{
	for (struct ft_rulebook **at = &gate->retired; *at;) {
		struct ft_rulebook *book = *at;
		if (book->holds) {
			at = &book->next;
			continue;
		}
		struct moving moving = {gate, book, NULL};
		ft_flows_each(gate->flows, move_flow, &moving);
		*at = book->next;
		ft_rulebook_free(book);
	}
}

void ft_reload_free(struct ft_gate *gate)
{
	while (gate->retired) {
		struct ft_rulebook *book = gate->retired;
		gate->retired = book->next;
		ft_rulebook_free(book);
	}
	ft_rulebook_free(gate->book);
	gate->book = NULL;
}

const struct ft_service *ft_reload_retired(const struct ft_gate *gate, uint8_t guest, uint8_t protocol,
					   uint16_t port)
{
	for (const struct ft_rulebook *book = gate->retired; book; book = book->next) {
		const struct ft_service *service = ft_services_find(&book->services, guest, protocol, port);
		if (service && service->tally->open)
			return service;
	}
	return NULL;
}
