/* Records as EVE JSON lines, valid against Suricata's schema: what SIEMs already read.
 *
 * A hold gives one `alert`, whatever became of it (action allowed or blocked; severity 4 when it was clean); in addition
 * a `drop` when it was dropped, a `flow`, an `http` when the input was a request, and a `fileinfo` when its packets were
 * kept. Everything of ours is in alert.context.foretaste: the whole record. Ids are stable: gid FT_EVE_GID, signature_id
 * and rev are those of the rule that decided (src/detect). */
#ifndef FT_LOG_EVE_H
#define FT_LOG_EVE_H

#include <jansson.h>
#include <stdint.h>

#define FT_EVE_GID      1000
#define FT_EVE_SID_NONE 4000000 /* a record that names no rule */
#define FT_EVE_TIME     40

/* A kept pcap, for `fileinfo`. */
struct ft_eve_file {
	const char *name, *sha256;
	uint64_t size;
};

/* record has passed ft_record_check. file may be NULL. Returns a new list of lines, the alert first; NULL when there is
 * no memory. */
json_t *ft_eve_hold(const char *sensor, const json_t *record, const struct ft_eve_file *file);

/* A finding of a correlation rule on a live guest: an `alert` without a flow. */
json_t *ft_eve_correlation(const char *sensor, uint64_t ns, const json_t *event);

/* Something about the gateway itself, as Suricata's `engine` events. module: who it is about. error: it is bad news. */
json_t *ft_eve_engine(const char *sensor, uint64_t ns, const char *module, const char *text, int error);

/* "2026-11-22T22:50:00.123456+0000" */
void ft_eve_time(uint64_t ns, char text[FT_EVE_TIME]);

#endif
