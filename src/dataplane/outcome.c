#include "dataplane/outcome.h"

#include <string.h>

static const char *const names[FT_DISPOSITION_COUNT + 1] = {
#define X(name, label) [FT_DISPOSITION_##name] = label,
    FT_DISPOSITIONS(X)
#undef X
	[FT_DISPOSITION_COUNT] = "other",
};

void ft_outcome_note(struct ft_outcomes *outcomes, enum ft_verdict verdict, const char *disposition, uint64_t ns)
{
	unsigned i = 0;
	while (i < FT_DISPOSITION_COUNT && strcmp(names[i], disposition))
		i++;
	outcomes->dispositions[i]++;
	outcomes->verdicts[verdict]++;
	ft_histogram_note(&outcomes->time, FT_HISTOGRAM_HOLD, ns);
}

void ft_outcome_tell(const struct ft_outcomes *outcomes, json_t *object)
{
	json_t *verdicts = json_object(), *dispositions = json_object();
	for (int i = 0; i < FT_VERDICTS; i++)
		json_object_set_new(verdicts, ft_verdict_name((enum ft_verdict)i),
				    json_integer((json_int_t)outcomes->verdicts[i]));
	for (unsigned i = 0; i <= FT_DISPOSITION_COUNT; i++)
		if (i < FT_DISPOSITION_COUNT || outcomes->dispositions[i])
			json_object_set_new(dispositions, names[i], json_integer((json_int_t)outcomes->dispositions[i]));
	json_object_set_new(object, "verdicts", verdicts);
	json_object_set_new(object, "dispositions", dispositions);
	json_object_set_new(object, "hold_time", ft_histogram_json(&outcomes->time));
}
