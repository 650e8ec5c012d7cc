#include "replay/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/units.h"

#define NOBODY 65534u /* Debian's nobody, when root starts it */

static const char usage[] =
    "Usage: foretaste-replay DIR [--disk IMAGE] [--run N] [--from CHECKPOINT] [--to COUNT|TIME] [--trace WHAT,...]\n"
    "                        [--step N] [--go-live DURATION [--seed N]] [--key FILE] [--json]\n"
    "       foretaste-replay DIR|--kept SNAPSHOT --verdict RECORD --rules RULES [--disk IMAGE] [--against SNAPSHOT] [--json]\n"
    "       foretaste-replay DIR|--kept SNAPSHOT --verdict RECORD --to verdict ...\n"
    "As `foretaste replay GUEST ...`, `foretaste replay --verdict ID ...` and `... --to verdict:ID` the gateway finds the files.\n"
    "\n"
    "Replays a guest from its journal (the directory journal/GUEST below state) and compares its state with what was recorded.\n"
    "  --disk IMAGE   the base image of the guest's disk, if it had one\n"
    "  --run N        a life of the guest's process; without it the newest\n"
    "  --from N       begins at that checkpoint; without it at the newest that --to allows\n"
    "  --to           an instruction count, a time as 2026-11-28T03:20:00Z, or `verdict`: where its input was taken; without it the\n"
    "                 end of the journal\n"
    "  --trace        syscalls, network, disk, console, inputs: prints these as they happened\n"
    "  --step N       then N instructions one by one, with the registers\n"
    "  --go-live      then the guest goes on by itself for that long in its own time, its network ending here\n"
    "  --seed N       of the random numbers that it gets then\n"
    "  --verdict FILE a verdict's record (foretaste show ID --json, or its line of the feed): its trial is made again, on a clone of the\n"
    "                 same moment with the same input, and has to show the same and be judged the same\n"
    "  --rules FILE   those that judged it (rules/SHA256.json below state, by rules_sha256 of the record)\n"
    "  --kept FILE    the snapshot of its seed, where no journal has it\n"
    "  --against FILE then the same input on another guest's snapshot, and what is different there\n"
    "  --against-disk IMAGE  the base image of that one's disk, if it is another\n"
    "  --peer NAME=IMAGE  the base image of another guest's disk (or nothing), whose journal lies beside this one and is referred to by it\n"
    "  --key FILE     the key that all of these are encrypted with (snapshots.key); --credential NAME: one of systemd's\n"
    "  --uid N        the uid and gid that root becomes; without it 65534\n"
    "Exit status: 0 everything was as recorded, 1 it was not, others as in sysexits.h.\n";

static bool number(const char *text, uint64_t *value)
{
	char *end;
	errno = 0;
	*value = strtoull(text, &end, 10);
	return *text >= '0' && *text <= '9' && !*end && !errno;
}

/* 2026-11-28T03:20:00Z, with or without a fraction. */
static bool time_of(const char *text, uint64_t *wall_ns)
{
	struct tm tm = {0};
	int n = 0;
	double second = 0;
	if (sscanf(text, "%4d-%2d-%2dT%2d:%2d:%lfZ%n", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour, &tm.tm_min, &second, &n) != 6 ||
	    text[n] || second < 0 || second >= 61 || tm.tm_year < 1970 || tm.tm_mon < 1 || tm.tm_mon > 12)
		return false;
	tm.tm_year -= 1900;
	tm.tm_mon--;
	time_t minute = timegm(&tm);
	*wall_ns = (uint64_t)minute * 1000000000u + (uint64_t)(second * 1e9);
	return minute >= 0;
}

/* What goes with what. */
static bool is_sound(const struct ft_replay_options *o, bool any)
{
	const char *why = NULL;
	if (o->kept ? any : !o->directory)
		why = o->kept ? "--kept takes the place of a directory" : "which journal?";
	else if (o->kept && !o->verdict)
		why = "--kept goes with --verdict";
	else if (o->to_verdict && !o->verdict)
		why = "--to verdict needs to know which one: --verdict";
	else if (o->verdict && !o->to_verdict && !o->rules)
		why = "--verdict needs the rules that judged it: --rules";
	else if (o->verdict && !o->to_verdict && (o->trace || o->steps || o->goes_live))
		why = "--trace, --step and --go-live go with --verdict where there is --to verdict";
	else if (o->against && (!o->verdict || o->to_verdict))
		why = "--against goes with a verdict that is made again";
	if (why)
		fprintf(stderr, "foretaste-replay: %s\n", why);
	return !why;
}

int ft_replay_options_read(struct ft_replay_options *o, int argc, char **argv)
{
	enum { DISK = 256, RUN, FROM, TO, TRACE, STEP, GO_LIVE, SEED, UID, JSON, HELP, VERDICT, RULES, KEPT, AGAINST, AGAINST_DISK, PEER, KEY, CREDENTIAL };
	static const struct option options[] = {
	    {"disk", required_argument, NULL, DISK}, {"run", required_argument, NULL, RUN},	  {"from", required_argument, NULL, FROM},
	    {"to", required_argument, NULL, TO},     {"trace", required_argument, NULL, TRACE},	  {"step", required_argument, NULL, STEP},
	    {"seed", required_argument, NULL, SEED}, {"go-live", required_argument, NULL, GO_LIVE}, {"uid", required_argument, NULL, UID},
	    {"verdict", required_argument, NULL, VERDICT}, {"rules", required_argument, NULL, RULES}, {"kept", required_argument, NULL, KEPT},
	    {"against", required_argument, NULL, AGAINST}, {"against-disk", required_argument, NULL, AGAINST_DISK},
	    {"peer", required_argument, NULL, PEER}, {"key", required_argument, NULL, KEY}, {"credential", required_argument, NULL, CREDENTIAL},
	    {"json", no_argument, NULL, JSON},	     {"help", no_argument, NULL, HELP},		  {NULL, 0, NULL, 0}};
	struct ft_error err = {0};
	uint64_t value;
	*o = (struct ft_replay_options){.place = {.icount = UINT64_MAX, .wall_ns = UINT64_MAX},
			      .to = {.icount = UINT64_MAX, .vtime_ns = UINT64_MAX},
			      .uid = NOBODY,
			      .seed = 1};
	for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
		bool good = true;
		switch (c) {
		case DISK:
			o->disk = optarg;
			break;
		case RUN:
			good = number(optarg, &value) && value && value <= UINT32_MAX;
			o->place.run = (uint32_t)value;
			break;
		case FROM:
			good = number(optarg, &value) && value && value <= UINT32_MAX;
			o->place.checkpoint = (uint32_t)value;
			break;
		case TO:
			if (!strcmp(optarg, "verdict"))
				o->to_verdict = true;
			else if (number(optarg, &o->to.icount))
				o->place.icount = o->to.icount;
			else
				good = time_of(optarg, &o->wall_ns);
			if (o->wall_ns)
				o->place.wall_ns = o->wall_ns;
			break;
		case TRACE:
			o->trace = optarg;
			break;
		case STEP:
			good = number(optarg, &o->steps) && o->steps <= FT_REPLAY_STEPS_MAX;
			break;
		case GO_LIVE:
			good = !ft_units_duration(optarg, &o->go_live_ns, &err);
			o->goes_live = true;
			break;
		case SEED:
			good = number(optarg, &o->seed);
			break;
		case UID:
			good = number(optarg, &value) && value && value < UINT32_MAX;
			o->uid = (uid_t)value;
			break;
		case VERDICT:
			o->verdict = optarg;
			break;
		case RULES:
			o->rules = optarg;
			break;
		case KEPT:
			o->kept = optarg;
			break;
		case AGAINST:
			o->against = optarg;
			break;
		case PEER:
			good = strchr(optarg, '=') && optarg[0] != '.' && !memchr(optarg, '/', strcspn(optarg, "=")) && o->peer_count < FT_REPLAY_PEERS;
			if (good)
				o->peers[o->peer_count++] = optarg;
			break;
		case KEY:
			o->key = optarg;
			break;
		case CREDENTIAL:
			o->credential = optarg;
			break;
		case AGAINST_DISK:
			o->against_disk = optarg;
			break;
		case JSON:
			o->json = true;
			break;
		case HELP:
		case 'h':
			ft_replay_options_usage(stdout);
			return 1;
		default:
			return -EINVAL;
		}
		if (!good) {
			fprintf(stderr, "foretaste-replay: \"%.64s\" cannot be\n", optarg);
			return -EINVAL;
		}
	}
	o->directory = optind + 1 == argc ? argv[optind] : NULL;
	return is_sound(o, optind < argc) ? 0 : -EINVAL;
}

void ft_replay_options_usage(FILE *to)
{
	fputs(usage, to);
}
