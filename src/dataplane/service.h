/* A service of the guest as the configuration describes it, and the budgets of its trials. Immutable after
 * loading, except how it acts. */
#ifndef FT_DATAPLANE_SERVICE_H
#define FT_DATAPLANE_SERVICE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "dataplane/admission.h"
#include "dataplane/policy.h"
#include "dataplane/shadow.h"
#include "detect/profile.h"

struct ft_canary_test;
struct ft_screen;
struct ft_shadow;

#define FT_SERVICE_HOLD_LEAST 2048u

enum ft_service_mode {
	FT_MODE_OBSERVE, /* tried in the background, never held */
	FT_MODE_SHADOW,  /* the same, and what enforce would have done with it is counted (dataplane/shadow.h) */
	FT_MODE_ENFORCE,
	FT_MODE_BYPASS /* not looked at; never configured, only switched on */
};

struct ft_service {
	char *name;
	char *guest;
	uint8_t guest_index; /* set by the gate */
	uint8_t protocol; /* IPPROTO_TCP or IPPROTO_UDP */
	uint16_t port;
	enum ft_service_mode mode;   /* as configured or switched to */
	bool bypass;                 /* switched on for this service */
	enum ft_service_mode acting; /* what follows from both and the bypass of all: ft_services_act */
	struct ft_shadow *shadow;    /* owned; of its time in shadow mode */
	struct ft_policies policies;
	struct ft_quotas quotas;
	struct ft_tally *tally; /* owned; all that changes while it runs */
	bool screen_all;
	bool retired; /* no longer configured; there are holds of it */
	uint32_t *sids; /* pattern rules that apply */
	size_t sid_count;
	uint64_t risks;          /* nDPI risks that make a trigger, a bit each */
	uint64_t gather_ns;      /* wait for more after the last byte ... */
	uint64_t gather_most_ns; /* ... but never longer than this after the first */
	uint32_t hold_bytes;     /* most of one hold */
	uint64_t input_most;     /* bytes of one flow that are tried, all its holds together */
	uint32_t trials_per_flow;
	struct ft_profile *profile;
	struct ft_canary_test *canary; /* of the copy of a service that the self-test uses (dataplane/canary.h) */
	struct ft_screen *screen; /* compiled patterns (dataplane/screen.h), owned by whoever set it */
};

struct ft_services {
	struct ft_service *list;
	size_t count;
};

/* What each clone may use (base/trial.h), and how many may run at once. */
struct ft_budgets {
	uint64_t handling_instructions, horizon_ns, horizon_instructions, wall_ns, memory_pages;
	uint32_t most;
	uint32_t source; /* of them, most of one client address */
	uint32_t group;    /* most holds that are tried on one clone, 1 to FT_TRIAL_FLOWS */
	uint32_t parallel; /* young batches of one guest at a time */
};

/* services: {NAME: {...}}, budgets: {...} as the supervisor sends them. The caller frees with
 * ft_services_free. */
int ft_services_load(const json_t *services, struct ft_services *to, struct ft_error *err);
void ft_services_free(struct ft_services *services);
int ft_budgets_load(const json_t *clone, struct ft_budgets *to, struct ft_error *err);

/* What all services of a guest together may do: what is normal for it. The caller frees *profile. */
int ft_services_profile(const json_t *services, const char *guest, struct ft_profile **profile, struct ft_error *err);

/* The guest's service that protocol and port (host byte order) belong to, or NULL. */
const struct ft_service *ft_services_find(const struct ft_services *services, uint8_t guest, uint8_t protocol,
					  uint16_t port);

/* What each service does now. To be called after any change of a mode or a bypass. */
void ft_services_act(struct ft_services *services, bool bypass);

struct ft_service *ft_services_named(struct ft_services *services, const char *name);

/* Does any service of the guest with this protocol act like that (shadow acts like observe)? protocol 0: any protocol. */
bool ft_services_have(const struct ft_services *services, uint8_t guest, uint8_t protocol,
		      enum ft_service_mode mode);

/* Why a frame passes that this service does not look at. */
static inline enum ft_reason ft_service_unlooked(const struct ft_service *service)
{
	return service->retired ? FT_REASON_PASS_UNINSPECTED : FT_REASON_PASS_BYPASS;
}

const char *ft_service_mode_name(enum ft_service_mode mode);
/* -1: there is no such mode that a service can be switched to. */
int ft_service_mode_by_name(const char *name);

#endif
