#include "base/reason.h"

static const struct {
	const char *label, *text;
	enum ft_reason_action action;
} table[FT_REASON_COUNT] = {
#define X(name, label_, action_, text_) {.label = label_, .text = text_, .action = FT_REASON_ACTION_##action_},
	FT_REASONS(X)
#undef X
};

const char *ft_reason_label(enum ft_reason reason)
{
	return (unsigned)reason < FT_REASON_COUNT ? table[reason].label : "unknown";
}

const char *ft_reason_text(enum ft_reason reason)
{
	return (unsigned)reason < FT_REASON_COUNT ? table[reason].text : "unknown";
}

enum ft_reason_action ft_reason_action(enum ft_reason reason)
{
	return (unsigned)reason < FT_REASON_COUNT ? table[reason].action : FT_REASON_ACTION_DROP;
}
