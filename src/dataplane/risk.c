#include "dataplane/risk.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include <ndpi/ndpi_api.h>

static uint64_t severe(void)
{
	uint64_t risks = 0;
	for (unsigned risk = 1; risk < NDPI_MAX_RISK; risk++) {
		const ndpi_risk_info *info = ndpi_risk2severity((ndpi_risk_enum)risk);
		if (info && info->severity >= NDPI_RISK_SEVERE)
			risks |= 1ull << risk;
	}
	return risks;
}

const char *ft_risk_name(unsigned risk, char *buffer, size_t size)
{
	const char *text = ndpi_risk2str((ndpi_risk_enum)risk);
	size_t at = 0;
	for (; *text && at + 1 < size; text++) {
		if (isalnum((unsigned char)*text))
			buffer[at++] = (char)tolower((unsigned char)*text);
		else if (at && buffer[at - 1] != '-')
			buffer[at++] = '-';
	}
	while (at && buffer[at - 1] == '-')
		at--;
	buffer[at] = 0;
	return buffer;
}

int ft_risk_load(const json_t *json, uint64_t *risks, struct ft_error *err)
{
	*risks = 0;
	if (!json || json_is_null(json) ||
	    (json_is_string(json) && !strcmp(json_string_value(json), "severe"))) {
		*risks = severe();
		return 0;
	}
	if (json_is_string(json) && !strcmp(json_string_value(json), "none"))
		return 0;
	if (!json_is_array(json))
		return ft_error_set(err, -EINVAL, "risks: neither severe, none nor a list");
	const json_t *name;
	size_t i;
	json_array_foreach(json, i, name)
	{
		char buffer[128];
		unsigned risk = 1;
		while (risk < NDPI_MAX_RISK &&
		       (!json_is_string(name) ||
			strcmp(ft_risk_name(risk, buffer, sizeof(buffer)), json_string_value(name))))
			risk++;
		if (risk == NDPI_MAX_RISK)
			return ft_error_set(err, -EINVAL, "risks: \"%s\" is no risk that nDPI knows",
					    json_is_string(name) ? json_string_value(name) : "");
		*risks |= 1ull << risk;
	}
	return 0;
}
