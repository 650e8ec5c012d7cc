#include "detect/story.h"

#include <inttypes.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

/* Bytes of a guest's text that go into one field of one entry. */
#define FIELD 240

bool ft_story_worth(const struct ft_event *event)
{
	switch (event->type) {
	case FT_EVENT_EXEC:
	case FT_EVENT_SIGNAL:
	case FT_EVENT_CODE_WRITTEN:
	case FT_EVENT_CONNECT:
	case FT_EVENT_LISTEN:
	case FT_EVENT_NET_TX:
	case FT_EVENT_FILE_WRITE:
	case FT_EVENT_FILE_REMOVE:
	case FT_EVENT_FILE_RENAME:
	case FT_EVENT_FILE_MODE:
	case FT_EVENT_FILE_LINK:
	case FT_EVENT_FILE_MAP:
	case FT_EVENT_CONSOLE:
	case FT_EVENT_RESET:
	case FT_EVENT_PANIC:
	case FT_EVENT_LOST:
	case FT_EVENT_TRIAL_HANDLED:
	case FT_EVENT_TRIAL_END:
		return true;
	default:
		return false;
	}
}

void ft_story_printable(const char *text, char *out, size_t size)
{
	size_t at = 0;
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;
		bool plain = c >= 0x20 && c < 0x7f;
		if (at + (plain ? 1 : 4) >= size)
			break;
		at += plain ? (size_t)snprintf(out + at, size - at, "%c", c)
			    : (size_t)snprintf(out + at, size - at, "\\x%02x", c);
	}
	out[at] = 0;
}

static const char *protocol_name(uint64_t protocol)
{
	return protocol == IPPROTO_TCP    ? "TCP"
	       : protocol == IPPROTO_UDP  ? "UDP"
	       : protocol == IPPROTO_ICMP ? "ICMP"
					  : "other";
}

/* " but failed (error 13)" after what a system call refused. */
static const char *outcome(uint64_t result, char buffer[48])
{
	buffer[0] = 0;
	if ((int64_t)result < 0)
		snprintf(buffer, 48, ", which failed (error %" PRIu64 ")", 0 - result);
	return buffer;
}

void ft_story_sentence(const struct ft_event *event, const char *const *strings, char text[FT_STORY_TEXT])
{
	char who[64], s0[160], s1[160], failed[48], comm[sizeof(event->process) + 1];
	memcpy(comm, event->process, sizeof(event->process));
	comm[sizeof(event->process)] = 0;
	ft_story_printable(comm[0] ? comm : "the system", who, sizeof(who));
	ft_story_printable(strings[0] ? strings[0] : "", s0, sizeof(s0));
	ft_story_printable(strings[1] ? strings[1] : "", s1, sizeof(s1));
	const uint64_t *a = event->a;
	const size_t n = FT_STORY_TEXT;
	const char *signal_name = a[0] < NSIG ? sigabbrev_np((int)a[0]) : NULL;
	switch (event->type) {
	case FT_EVENT_EXEC:
		snprintf(text, n, "%s started the program %s (%s)%s", who, s0, s1, outcome(a[0], failed));
		return;
	case FT_EVENT_PROCESS_NEW:
		snprintf(text, n, "%s made a new process, %" PRIu64, who, a[0]);
		return;
	case FT_EVENT_PROCESS_EXIT:
		snprintf(text, n, "%s ended with status %" PRIu64, who, a[0]);
		return;
	case FT_EVENT_SIGNAL:
		snprintf(text, n, "%s: signal %s%s to process %" PRId64, who, signal_name ? "SIG" : "",
			 signal_name ? signal_name : "(unknown)", (int64_t)a[1]);
		return;
	case FT_EVENT_FAULT:
		snprintf(text, n,
			 "%s hit CPU exception %" PRIu64 " at instruction 0x%" PRIx64 ", address 0x%" PRIx64,
			 who, a[0], a[3], a[2]);
		return;
	case FT_EVENT_CODE_WRITTEN:
		snprintf(text, n, "%s executed code that had been written into its memory, at 0x%" PRIx64,
			 who, a[0]);
		return;
	case FT_EVENT_CONNECT:
		snprintf(text, n, "%s opened a connection to %s%s", who, s0, outcome(a[3], failed));
		return;
	case FT_EVENT_LISTEN:
		snprintf(text, n, "%s began to accept connections on %s%s", who, s0, outcome(a[3], failed));
		return;
	case FT_EVENT_NET_TX:
		snprintf(text, n, "sent a %s packet of %" PRIu64 " bytes to %s", protocol_name(a[1]), a[0],
			 s0);
		return;
	case FT_EVENT_FILE_WRITE:
		snprintf(text, n, "%s opened the file %s for writing%s", who, s0, outcome(a[1], failed));
		return;
	case FT_EVENT_FILE_REMOVE:
		snprintf(text, n, "%s removed the file %s%s", who, s0, outcome(a[0], failed));
		return;
	case FT_EVENT_FILE_RENAME:
		snprintf(text, n, "%s renamed the file %s to %s%s", who, s0, s1, outcome(a[0], failed));
		return;
	case FT_EVENT_FILE_MODE:
		snprintf(text, n, "%s set the permissions of %s to %" PRIo64 "%s", who, s0, a[0],
			 outcome(a[1], failed));
		return;
	case FT_EVENT_FILE_LINK:
		snprintf(text, n, "%s made %s another name of %s%s", who, s1, s0, outcome(a[0], failed));
		return;
	case FT_EVENT_FILE_MAP:
		snprintf(text, n, "%s loaded code from the file %s, which is new or was changed", who, s0);
		return;
	case FT_EVENT_CONSOLE:
		snprintf(text, n, "the console said: %s", s0);
		return;
	case FT_EVENT_RESET:
		snprintf(text, n, "the machine reset or powered off: %s", s0);
		return;
	case FT_EVENT_PANIC:
		snprintf(text, n, "the kernel panicked: %s", s0);
		return;
	case FT_EVENT_LOST:
		snprintf(text, n, "%" PRIu64 " events were not recorded", a[0]);
		return;
	case FT_EVENT_TRIAL_HANDLED:
		snprintf(text, n, "the server took %" PRIu64 " of %" PRIu64 " held bytes and came to rest",
			 a[0], a[1]);
		return;
	case FT_EVENT_TRIAL_END:
		snprintf(text, n, "end of the run: %s%s%s",
			 ft_trial_end_text((unsigned)(a[0] < 255 ? a[0] : 255)), s0[0] ? ": " : "", s0);
		return;
	case FT_EVENT_SYSCALL:
		snprintf(text, n, "%s: system call %" PRIu64 " %s %s", who, a[0], s0, s1);
		return;
	default:
		snprintf(text, n, "%s: %s", who, ft_event_name(event->type));
		return;
	}
}

static int set_number(json_t *entry, const char *name, uint64_t value)
{
	static const char *const hexadecimal[] = {"rip", "address",    "gpa",  "old",
						  "new", "state_hash", "error"};
	for (size_t i = 0; i < sizeof(hexadecimal) / sizeof(*hexadecimal); i++)
		if (!strcmp(name, hexadecimal[i]))
			return json_object_set_new(entry, name, json_sprintf("0x%" PRIx64, value));
	/* JSON numbers here are 63 bits and a sign; what a system call returned is negative on failure. */
	return json_object_set_new(entry, name, json_integer((json_int_t)value));
}

json_t *ft_story_entry(const struct ft_event *event, const char *const *strings)
{
	char text[FT_STORY_TEXT];
	json_t *entry = json_object();
	int bad = !entry;
	bad |= json_object_set_new(entry, "event", json_string(ft_event_name(event->type)));
	if (event->pid >= 0)
		bad |= json_object_set_new(entry, "pid", json_integer(event->pid));
	if (event->process[0]) {
		char comm[sizeof(event->process) + 1] = {0};
		memcpy(comm, event->process, sizeof(event->process));
		ft_story_printable(comm, text, sizeof(text));
		bad |= json_object_set_new(entry, "process", json_string(text));
	}
	for (unsigned i = 0; i < FT_EVENT_ARGS + FT_EVENT_STRINGS; i++) {
		int field = (int)(i < FT_EVENT_ARGS ? i : i - FT_EVENT_ARGS + 8);
		char name[FT_EVENT_FIELD_NAME];
		if (!ft_event_field_name(event->type, field, name))
			continue;
		if (field >= 8) {
			char value[FIELD];
			ft_story_printable(strings[field - 8] ? strings[field - 8] : "", value,
					   sizeof(value));
			bad |= json_object_set_new(entry, name, json_string(value));
		} else {
			bad |= set_number(entry, name, event->a[field]);
		}
	}
	ft_story_sentence(event, strings, text);
	bad |= json_object_set_new(entry, "says", json_string(text));
	if (!bad)
		return entry;
	json_decref(entry);
	return NULL;
}
