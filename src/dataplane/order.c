#include "dataplane/order.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "dataplane/gate-t.h"
#include "dataplane/hold.h"

static json_t *refuse(struct ft_refusal *refusal, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static json_t *refuse(struct ft_refusal *refusal, int code, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(refusal->text, sizeof(refusal->text), format, args);
	va_end(args);
	refusal->code = code;
	return NULL;
}

static json_t *decide(struct ft_gate *gate, const json_t *message, bool release, struct ft_refusal *refusal)
{
	uint64_t before = 0;
	json_int_t id = json_integer_value(json_object_get(message, "hold"));
	int error = id > 0 ? ft_hold_order(gate, (uint64_t)id, release, &before) : -ENOENT;
	if (error == -EBUSY)
		return refuse(refusal, EX_TEMPFAIL, "hold %lld waits behind hold %llu of the same connection",
			      (long long)id, (unsigned long long)before);
	if (error)
		return refuse(refusal, EX_DATAERR,
			      "there is no open hold %lld that keeps something back: `foretaste holds` lists those "
			      "that do",
			      (long long)id);
	return json_pack("{s:I, s:s}", "hold", id, "done", release ? "released" : "dropped");
}

static json_t *release(struct ft_gate *gate, const json_t *message, struct ft_refusal *refusal)
{
	return decide(gate, message, true, refusal);
}

static json_t *drop(struct ft_gate *gate, const json_t *message, struct ft_refusal *refusal)
{
	return decide(gate, message, false, refusal);
}

json_t *ft_order(struct ft_gate *gate, const json_t *message, struct ft_refusal *refusal)
{
	static const struct {
		const char *what;
		json_t *(*obey)(struct ft_gate *gate, const json_t *message, struct ft_refusal *refusal);
	} orders[] = {{"release", release}, {"drop", drop}};
	const char *what = json_string_value(json_object_get(message, "what"));
	*refusal = (struct ft_refusal){0};
	for (size_t i = 0; what && i < sizeof(orders) / sizeof(*orders); i++)
		if (!strcmp(what, orders[i].what))
			return orders[i].obey(gate, message, refusal);
	return NULL;
}
