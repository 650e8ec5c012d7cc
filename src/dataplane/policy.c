#include "dataplane/policy.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *const names[FT_EXCEPTION_COUNT + 1] = {
#define X(name, label, text) [FT_EXCEPTION_##name] = label,
    FT_EXCEPTIONS(X)
#undef X
	[FT_EXCEPTION_COUNT] = "none"};

static const char *const policies[FT_POLICY_COUNT] = {"drop", "release", "tempfail"};

const char *ft_exception_name(enum ft_exception exception)
{
	return names[exception <= FT_EXCEPTION_COUNT ? exception : FT_EXCEPTION_COUNT];
}

const char *ft_policy_name(enum ft_policy policy)
{
	return policies[policy < FT_POLICY_COUNT ? policy : FT_POLICY_DROP];
}

static int read_policy(const json_t *service, const char *key, enum ft_policy fallback, unsigned known,
		       enum ft_policy *to, struct ft_error *err)
{
	const json_t *value = json_object_get(service, key);
	const char *text = json_string_value(value);
	*to = fallback;
	if (!value || json_is_null(value))
		return 0;
	for (unsigned i = 0; text && i < known; i++)
		if (!strcmp(text, policies[i])) {
			*to = (enum ft_policy)i;
			return 0;
		}
	return ft_error_set(err, -EINVAL, "%s: neither drop nor release%s", key,
			    known > 2 ? " nor tempfail" : "");
}

int ft_policies_load(const json_t *service, struct ft_policies *to, struct ft_error *err)
{
	enum ft_policy all;
	int error = read_policy(service, "on_exception", FT_POLICY_DROP, FT_POLICY_COUNT, &all, err);
	for (unsigned i = 0; i < FT_EXCEPTION_COUNT && !error; i++) {
		char key[32];
		snprintf(key, sizeof(key), "on_%s", names[i]);
		error = read_policy(service, key, all, FT_POLICY_COUNT, &to->on[i], err);
	}
	if (!error)
		error = read_policy(service, "on_suspicious", FT_POLICY_DROP, FT_POLICY_RELEASE + 1,
				    &to->on_suspicious, err);
	return error;
}

enum ft_reason ft_policy_reason(enum ft_exception exception, enum ft_policy policy)
{
	static const enum ft_reason reasons[FT_EXCEPTION_COUNT][FT_POLICY_COUNT] = {
#define X(name, label, text)                                                                                 \
	[FT_EXCEPTION_##                                                                                     \
	    name] = {FT_REASON_DROP_##name##_POLICY, FT_REASON_RELEASE_##name, FT_REASON_TEMPFAIL_##name},
	    FT_EXCEPTIONS(X)
#undef X
	};
	return reasons[exception][policy];
}

enum ft_exception ft_exception_of(enum ft_trial_end end)
{
	switch (end) {
	case FT_TRIAL_END_WALL:
	case FT_TRIAL_END_INSTRUCTIONS:
	case FT_TRIAL_END_MEMORY:
	case FT_TRIAL_END_NEVER_IDLE:
		return FT_EXCEPTION_TIMEOUT;
	default:
		return FT_EXCEPTION_ERROR;
	}
}
