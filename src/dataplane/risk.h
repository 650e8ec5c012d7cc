/* The risks that nDPI can report, by number and by name. A set of them is a bit mask (1 << number). */
#ifndef FT_DATAPLANE_RISK_H
#define FT_DATAPLANE_RISK_H

#include <jansson.h>
#include <stdint.h>

#include "base/error.h"

/* json: absent or "severe" (the risks that nDPI calls severe), "none", or a list of names (ft_risk_name). */
int ft_risk_load(const json_t *json, uint64_t *risks, struct ft_error *err);

/* nDPI's text in lower case with dashes ("possible-sql-injection"), into buffer; returns it. */
const char *ft_risk_name(unsigned risk, char *buffer, size_t size);

#endif
