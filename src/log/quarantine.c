#include "log/quarantine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pcap/pcap.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SERVICE 32u /* longest name, with its NUL */

#define DONE 256u /* finished files remembered until their hold's record comes */

/* A hold whose packets are coming in: the pcap so far, in memory. */
struct incoming {
	char service[SERVICE]; /* empty: not told */
	uint64_t hold, next_sequence;
	pcap_t *pcap;
	pcap_dumper_t *dumper;
	char *bytes; /* of the memory stream; valid after the dumper's flush or close */
	size_t length;
	size_t taken; /* frame bytes accounted in the quarantine's total */
};

struct file {
	char name[FT_QUARANTINE_NAME];
	char service[SERVICE];
	uint64_t size;
	struct timespec born;
};

struct done {
	bool used;
	uint64_t hold;
	struct ft_quarantined file;
};

struct ft_quarantine {
	int directory;
	uint64_t quota, bytes;
	struct file *files; /* oldest first */
	size_t count, room;
	struct incoming *incoming[FT_QUARANTINE_OPEN];
	size_t incoming_bytes;
	struct done done[DONE]; /* a ring */
	unsigned next_done;
	uint64_t removed, failed;
	json_t *shares;      /* {SERVICE: bytes} */
	json_t *removed_of; /* {SERVICE: count} */
};

static bool is_ours(const char *name)
{
	size_t n = strlen(name);
	return n < FT_QUARANTINE_NAME && n > 10 && !strncmp(name, "hold-", 5) &&
	       !strcmp(name + n - 5, ".pcap");
}

/* "http" of "hold-17-http.2.pcap"; empty when there is none. */
static void service_of(const char *name, char service[SERVICE])
{
	const char *at = name + strlen("hold-");
	service[0] = 0;
	at += strspn(at, "0123456789");
	if (*at == '-')
		snprintf(service, SERVICE, "%.*s", (int)strcspn(at + 1, "."), at + 1);
}

static bool add_file(struct ft_quarantine *q, const char *name, uint64_t size, struct timespec born)
{
	if (q->count == q->room) {
		size_t room = q->room ? 2 * q->room : 64;
		struct file *more = realloc(q->files, room * sizeof(*more));
		if (!more)
			return false;
		q->files = more;
		q->room = room;
	}
	struct file *file = &q->files[q->count++];
	snprintf(file->name, sizeof(file->name), "%s", name);
	service_of(name, file->service);
	file->size = size;
	file->born = born;
	q->bytes += size;
	return true;
}

static int by_age(const void *a, const void *b)
{
	const struct file *x = a, *y = b;
	if (x->born.tv_sec != y->born.tv_sec)
		return x->born.tv_sec < y->born.tv_sec ? -1 : 1;
	if (x->born.tv_nsec != y->born.tv_nsec)
		return x->born.tv_nsec < y->born.tv_nsec ? -1 : 1;
	/* A file system's clock is coarse; holds are numbered as they come. */
	uint64_t a_hold = strtoull(x->name + strlen("hold-"), NULL, 10);
	uint64_t b_hold = strtoull(y->name + strlen("hold-"), NULL, 10);
	return a_hold < b_hold ? -1 : a_hold > b_hold;
}

static int scan(struct ft_quarantine *q, struct ft_error *err)
{
	int fd = openat(q->directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		int error = errno;
		if (fd >= 0)
			close(fd);
		return ft_error_set(err, -error, "the quarantine directory cannot be read: %s",
				    strerror(error));
	}
	struct dirent *entry;
	bool full = false;
	while ((entry = readdir(dir)) && !full) {
		struct stat st;
		if (!strncmp(entry->d_name, ".hold-", 6))
			unlinkat(q->directory, entry->d_name, 0);
		else if (is_ours(entry->d_name) &&
			 !fstatat(q->directory, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) &&
			 S_ISREG(st.st_mode))
			full = !add_file(q, entry->d_name, (uint64_t)st.st_size, st.st_mtim);
	}
	closedir(dir);
	if (full)
		return ft_error_set(err, -ENOMEM, "no memory for the list of quarantined files");
	if (q->count)
		qsort(q->files, q->count, sizeof(*q->files), by_age);
	return 0;
}

int ft_quarantine_open(struct ft_quarantine **out, int directory, uint64_t quota, struct ft_error *err)
{
	*out = NULL;
	struct ft_quarantine *q = calloc(1, sizeof(*q));
	if (!q)
		return ft_error_set(err, -ENOMEM, "no memory for the quarantine");
	q->directory = directory;
	q->quota = quota;
	int status = scan(q, err);
	if (status) {
		ft_quarantine_close(q);
		return status;
	}
	*out = q;
	return 0;
}

static void forget(struct ft_quarantine *q, size_t slot)
{
	struct incoming *in = q->incoming[slot];
	if (!in)
		return;
	q->incoming_bytes -= in->taken;
	q->incoming[slot] = NULL;
	if (in->dumper)
		pcap_dump_close(in->dumper);
	if (in->pcap)
		pcap_close(in->pcap);
	free(in->bytes);
	free(in);
}

void ft_quarantine_close(struct ft_quarantine *q)
{
	if (!q)
		return;
	for (size_t i = 0; i < FT_QUARANTINE_OPEN; i++)
		forget(q, i);
	json_decref(q->shares);
	json_decref(q->removed_of);
	free(q->files);
	free(q);
}

void ft_quarantine_shares(struct ft_quarantine *q, uint64_t quota, const json_t *shares)
{
	q->quota = quota;
	json_decref(q->shares);
	q->shares = shares ? json_deep_copy(shares) : NULL;
}

static uint64_t bytes_of(const struct ft_quarantine *q, const char *service)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < q->count; i++)
		if (!strcmp(q->files[i].service, service))
			bytes += q->files[i].size;
	return bytes;
}

/* Removes the oldest file, of the service or (NULL) of all. */
static int remove_oldest(struct ft_quarantine *q, const char *service, struct ft_error *err)
{
	size_t at = 0;
	while (service && strcmp(q->files[at].service, service))
		at++;
	struct file *oldest = &q->files[at];
	if (unlinkat(q->directory, oldest->name, 0) && errno != ENOENT)
		return ft_error_set(err, -errno, "%s cannot be removed to keep to quarantine_quota: %s",
				    oldest->name, strerror(errno));
	json_int_t before = json_integer_value(json_object_get(q->removed_of, oldest->service));
	if (!q->removed_of)
		q->removed_of = json_object();
	if (*oldest->service)
		json_object_set_new(q->removed_of, oldest->service, json_integer(before + 1));
	q->bytes -= oldest->size;
	q->removed++;
	q->count--;
	memmove(oldest, oldest + 1, (q->count - at) * sizeof(*q->files));
	return 0;
}

/* Makes room for size more bytes of a service. */
static int make_room(struct ft_quarantine *q, uint64_t size, const char *service, struct ft_error *err)
{
	json_int_t share = *service ? json_integer_value(json_object_get(q->shares, service)) : 0;
	if (q->quota && size > q->quota)
		return ft_error_set(
		    err, -EFBIG, "%" PRIu64 " bytes of packets are more than quarantine_quota allows", size);
	if (share > 0 && size > (uint64_t)share)
		return ft_error_set(err, -EFBIG,
				    "%" PRIu64 " bytes of packets are more than the share of service %s", size,
				    service);
	int status = 0;
	for (uint64_t bytes; share > 0 && !status && (bytes = bytes_of(q, service)) &&
			     bytes + size > (uint64_t)share;)
		status = remove_oldest(q, service, err);
	while (q->quota && !status && q->count && q->bytes + size > q->quota)
		status = remove_oldest(q, NULL, err);
	return status;
}

static int write_all(int fd, const char *bytes, size_t length)
{
	while (length) {
		ssize_t n = write(fd, bytes, length);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENOSPC;
		bytes += n;
		length -= (size_t)n;
	}
	return 0;
}

/* Hold numbers may begin anew after a restart; an older file of the same number stays. */
static int rename_free(struct ft_quarantine *q, const char *part, const struct incoming *in,
		       char name[FT_QUARANTINE_NAME])
{
	for (unsigned i = 1; i < 10000; i++) {
		char again[8] = "";
		if (i > 1)
			snprintf(again, sizeof(again), ".%u", i);
		snprintf(name, FT_QUARANTINE_NAME, "hold-%" PRIu64 "%s%s%s.pcap", in->hold,
			 *in->service ? "-" : "", in->service, again);
		if (!renameat2(q->directory, part, q->directory, name, RENAME_NOREPLACE))
			return 0;
		if (errno != EEXIST)
			return -errno;
	}
	return -EEXIST;
}

static int store(struct ft_quarantine *q, const struct incoming *in, struct ft_error *err)
{
	int status = make_room(q, in->length, in->service, err);
	if (status)
		return status;
	char part[FT_QUARANTINE_NAME], name[FT_QUARANTINE_NAME];
	snprintf(part, sizeof(part), ".hold-%" PRIu64 ".part", in->hold);
	int fd = openat(q->directory, part, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
	if (fd < 0)
		return ft_error_set(err, -errno, "the packets of hold %" PRIu64 " cannot be kept: %s",
				    in->hold, strerror(errno));
	status = write_all(fd, in->bytes, in->length);
	if (close(fd) && !status)
		status = -errno;
	if (!status)
		status = rename_free(q, part, in, name);
	if (status) {
		unlinkat(q->directory, part, 0);
		return ft_error_set(err, status, "the packets of hold %" PRIu64 " cannot be kept: %s",
				    in->hold, strerror(-status));
	}
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	add_file(q, name, in->length, now);
	struct done *done = &q->done[q->next_done++ % DONE];
	done->used = true;
	done->hold = in->hold;
	done->file.size = in->length;
	memcpy(done->file.name, name, sizeof(name));
	unsigned char digest[crypto_hash_sha256_BYTES];
	crypto_hash_sha256(digest, (const unsigned char *)in->bytes, in->length);
	sodium_bin2hex(done->file.sha256, sizeof(done->file.sha256), digest, sizeof(digest));
	return 0;
}

static struct incoming *begin(uint64_t hold)
{
	struct incoming *in = calloc(1, sizeof(*in));
	if (!in)
		return NULL;
	in->hold = hold;
	in->pcap =
	    pcap_open_dead_with_tstamp_precision(DLT_EN10MB, FT_QUARANTINE_FRAME, PCAP_TSTAMP_PRECISION_NANO);
	FILE *stream = open_memstream(&in->bytes, &in->length);
	if (in->pcap && stream)
		in->dumper = pcap_dump_fopen(in->pcap, stream);
	if (in->dumper)
		return in;
	if (stream)
		fclose(stream);
	if (in->pcap)
		pcap_close(in->pcap);
	free(in->bytes);
	free(in);
	return NULL;
}

/* libsodium 1.0.18 takes bytes above 127 for digits. */
static bool is_ascii(const char *text)
{
	while (*text && !(*text & 0x80))
		text++;
	return !*text;
}

static int add_frame(struct ft_quarantine *q, struct incoming *in, const json_t *frame, struct ft_error *err)
{
	const json_t *ns = json_object_get(frame, "ns"), *data = json_object_get(frame, "data");
	if (!json_is_integer(ns) || json_integer_value(ns) < 0 || !json_is_string(data) ||
	    json_string_length(data) > FT_QUARANTINE_FRAME / 3 * 4 + 4)
		return ft_error_set(err, -EINVAL, "a packet of hold %" PRIu64 " has no time or no data",
				    in->hold);
	static const size_t most = FT_QUARANTINE_FRAME;
	unsigned char *bytes = malloc(most);
	size_t length;
	const char *end;
	if (!bytes)
		return ft_error_set(err, -ENOMEM, "no memory for the packets of hold %" PRIu64, in->hold);
	if (!is_ascii(json_string_value(data)) ||
	    sodium_base642bin(bytes, most, json_string_value(data), json_string_length(data), NULL, &length,
			      &end, sodium_base64_VARIANT_ORIGINAL) ||
	    *end || !length) {
		free(bytes);
		return ft_error_set(err, -EINVAL, "a packet of hold %" PRIu64 " is not valid base64",
				    in->hold);
	}
	if (q->incoming_bytes + length > FT_QUARANTINE_BYTES) {
		free(bytes);
		return ft_error_set(err, -ENOBUFS, "too many packets wait to be quarantined");
	}
	uint64_t time = (uint64_t)json_integer_value(ns);
	struct pcap_pkthdr header = {.caplen = (bpf_u_int32)length, .len = (bpf_u_int32)length};
	header.ts.tv_sec = (time_t)(time / 1000000000u);
	header.ts.tv_usec = (suseconds_t)(time % 1000000000u); /* nanoseconds, as the precision above says */
	pcap_dump((u_char *)in->dumper, &header, bytes);
	free(bytes);
	in->taken += length;
	q->incoming_bytes += length;
	return 0;
}

/* The slot of the hold, opened when this is its first part. */
static int find_slot(struct ft_quarantine *q, uint64_t hold, uint64_t sequence, size_t *slot,
		     struct ft_error *err)
{
	size_t unused = FT_QUARANTINE_OPEN;
	for (size_t i = 0; i < FT_QUARANTINE_OPEN; i++) {
		if (!q->incoming[i]) {
			unused = i;
		} else if (q->incoming[i]->hold == hold) {
			*slot = i;
			return 0;
		}
	}
	if (sequence != 0)
		return ft_error_set(err, -EINVAL, "packets of hold %" PRIu64 " came without their beginning",
				    hold);
	if (unused == FT_QUARANTINE_OPEN)
		return ft_error_set(err, -ENOBUFS, "too many holds wait to be quarantined");
	q->incoming[unused] = begin(hold);
	*slot = unused;
	return q->incoming[unused]
		   ? 0
		   : ft_error_set(err, -ENOMEM, "no memory for the packets of hold %" PRIu64, hold);
}

static int finish(struct ft_quarantine *q, struct incoming *in, struct ft_error *err)
{
	bool broken = pcap_dump_flush(in->dumper) != 0;
	pcap_dump_close(in->dumper);
	in->dumper = NULL;
	return broken ? ft_error_set(err, -ENOMEM, "no memory for the packets of hold %" PRIu64, in->hold)
		      : store(q, in, err);
}

/* It becomes part of a file's name. */
static void note_service(struct incoming *in, const char *service)
{
	if (service && strlen(service) < SERVICE &&
	    strspn(service, "abcdefghijklmnopqrstuvwxyz0123456789-_") == strlen(service))
		snprintf(in->service, SERVICE, "%s", service);
}

int ft_quarantine_packets(struct ft_quarantine *q, const json_t *message, struct ft_error *err)
{
	const json_t *hold = json_object_get(message, "hold"), *sequence = json_object_get(message, "seq");
	const json_t *frames = json_object_get(message, "frames"), *last = json_object_get(message, "last");
	struct ft_error local = {0};
	if (!err)
		err = &local;
	if (!json_is_integer(hold) || json_integer_value(hold) < 0 || !json_is_integer(sequence) ||
	    !json_is_array(frames) || !json_is_boolean(last)) {
		q->failed++;
		return ft_error_set(err, -EINVAL, "a record of packets lacks hold, seq, last or frames");
	}
	size_t slot = FT_QUARANTINE_OPEN;
	int status = find_slot(q, (uint64_t)json_integer_value(hold), (uint64_t)json_integer_value(sequence),
			       &slot, err);
	if (status) {
		q->failed++;
		return status;
	}
	struct incoming *in = q->incoming[slot];
	if (!in->next_sequence)
		note_service(in, json_string_value(json_object_get(message, "service")));
	if ((uint64_t)json_integer_value(sequence) != in->next_sequence++)
		status =
		    ft_error_set(err, -EINVAL, "packets of hold %" PRIu64 " came out of order", in->hold);
	for (size_t i = 0; i < json_array_size(frames) && !status; i++)
		status = add_frame(q, in, json_array_get(frames, i), err);
	if (!status && json_is_true(last))
		status = finish(q, in, err);
	if (status)
		q->failed++;
	if (status || json_is_true(last))
		forget(q, slot);
	return status;
}

int ft_quarantine_take(struct ft_quarantine *q, uint64_t hold, struct ft_quarantined *file)
{
	for (unsigned i = 0; i < DONE; i++) {
		if (q->done[i].used && q->done[i].hold == hold) {
			*file = q->done[i].file;
			q->done[i].used = false;
			return 1;
		}
	}
	return 0;
}

json_t *ft_quarantine_status(const struct ft_quarantine *q)
{
	json_t *services = json_object(), *share;
	const char *name;
	json_object_foreach(q->shares, name, share)
	    json_object_set_new(services, name,
				json_pack("{s:I, s:O, s:I}", "bytes", (json_int_t)bytes_of(q, name), "share",
					  share, "removed",
					  json_integer_value(json_object_get(q->removed_of, name))));
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:o}", "files", (json_int_t)q->count, "bytes",
			 (json_int_t)q->bytes, "quota", (json_int_t)q->quota, "removed",
			 (json_int_t)q->removed, "failed", (json_int_t)q->failed, "services", services);
}
