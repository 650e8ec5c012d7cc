/* A machine as a file: what comes back is the machine, part by part when it is touched; a file that was changed, cut or is
 * another's is refused; a save that dies anywhere leaves the old snapshot or none. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <sodium.h>
#include <cmocka.h>

#include "snapshot/key.h"
#include "snapshot/machine.h"
#include "vmm/dev/devices.h"
#include "vmm/state/image.h"

#define MEMORY (64u << 20)
#define CODE   0x2345000u

static char directory[] = "/tmp/foretaste-snapshot-XXXXXX";
static int at_directory, image;
static const struct ft_snapshot_about about = {.guest = "web", .created_ns = 1234, .origin = {1, 2, 3}};
static const uint8_t key[FT_SNAPSHOT_KEY] = {1, 2, 3}, other_key[FT_SNAPSHOT_KEY] = {1, 2, 4};

static struct ft_machine *machine(int disk)
{
	struct ft_error err = {0};
	struct ft_machine_config config = {.memory = MEMORY,
					   .clock = FT_CLOCK_FREE,
					   .mac = {0x52, 0x54, 0, 1, 2, 3},
					   .disk_fd = disk,
					   .engine = &ft_engine_soft,
					   .engine_options = {.cache_bytes = 3u << 20}};
	struct ft_machine *m = ft_machine_create(&config, &err);
	if (!m)
		fail_msg("%s", err.text);
	return m;
}

/* Kernel-mode code that walks over a few parts of RAM, adding up and writing, without a TLB to speak of. */
static struct ft_machine *guest(void)
{
	/* again: mov rax,[rbx]; add rdx,rax; mov [rbx+8],rdx; add rbx,0x101000; and ebx,0x1fffff8 (below 32 MiB); jmp again */
	static const uint8_t code[] = {0x48, 0x8b, 0x03, 0x48, 0x01, 0xc2, 0x48, 0x89, 0x53, 0x08, 0x48, 0x81, 0xc3,
				       0x00, 0x10, 0x10, 0x00, 0x81, 0xe3, 0xf8, 0xff, 0xff, 0x01, 0xeb, 0xe7};
	struct ft_machine *m = machine(image);
	struct ft_error err = {0};
	uint64_t entry = 0x3000000 | 7;
	/* Page tables near the end of RAM: 1 GiB mapped to itself by 2 MiB pages. */
	memcpy(m->ram.base + 0x2ffe000, &(uint64_t){0x2fff007}, 8);
	memcpy(m->ram.base + 0x2fff000, &entry, 8);
	for (uint64_t i = 0; i < 512; i++)
		memcpy(m->ram.base + 0x3000000 + 8 * i, &(uint64_t){i << 21 | 0x87}, 8);
	memcpy(m->ram.base + CODE, code, sizeof(code));
	/* Incompressible, compressible, zero. */
	randombytes_buf_deterministic(m->ram.base + 0x1000, 0x500000, key);
	memset(m->ram.base + 0x800000, 0x5a, 0x300000);
	struct ft_cpu_state s = {.rip = CODE,
				 .rflags = 2,
				 .cr0 = 0x80050033,
				 .cr3 = 0x2ffe000,
				 .cr4 = 0x6a0,
				 .efer = 0xd01,
				 .dr = {[6] = 0xffff0ff0, [7] = 0x400},
				 .pat = 0x0007040600070406};
	for (unsigned i = 0; i < FT_SEGMENTS; i++)
		s.segment[i] = (struct ft_segment){.limit = 0xffffffff, .selector = 0x18, .attributes = 0xc093};
	s.segment[FT_CS] = (struct ft_segment){.limit = 0xffffffff, .selector = 0x10, .attributes = 0xa09b};
	s.gpr[FT_RBX] = 0x100000;
	assert_int_equal(m->engine_ops->set(m->engine, &s, &err), 0);
	struct ft_run_limits limits = {.icount = 10000, .vtime_ns = UINT64_MAX};
	assert_int_equal(ft_machine_run(m, &limits, NULL), FT_STOP_COUNT);
	uint8_t block[FT_DISK_BLOCK];
	for (uint64_t i = 0; i < 700; i++) {
		memset(block, (int)i, sizeof(block));
		assert_int_equal(ft_disk_write(&m->devices->blk.disk, &m->ram, (i * 3 + i / 300) * FT_DISK_BLOCK, block, sizeof(block)), 0);
	}
	return m;
}

static int save(struct ft_machine *m, const char *name, const uint8_t *with, struct ft_snapshot_told *told, struct ft_error *err)
{
	int fd = ft_snapshot_create(at_directory, name, err);
	if (fd < 0)
		return fd;
	struct ft_snapshot_seal seal;
	if (with)
		ft_snapshot_seal(&seal, with);
	int error = ft_snapshot_save(m, &about, fd, with ? &seal : NULL, told, err);
	if (!error)
		error = ft_snapshot_commit(at_directory, name, fd, err);
	close(fd);
	return error;
}

static void saved(struct ft_machine *m, const char *name, const uint8_t *with)
{
	struct ft_snapshot_told told;
	struct ft_error err = {0};
	if (save(m, name, with, &told, &err))
		fail_msg("%s", err.text);
}

static int load(struct ft_snapshot_load *l, struct ft_machine *m, const char *name, const uint8_t *with, struct ft_error *err)
{
	int fd = openat(at_directory, name, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	struct ft_snapshot_seal seal;
	int error = with ? ft_snapshot_unseal(&seal, fd, with, err) : 0;
	if (!error)
		error = ft_snapshot_restore(l, m, fd, with ? &seal : NULL, err);
	close(fd);
	return error;
}

static void comes_back(const uint8_t *with)
{
	struct ft_machine *a = guest(), *b = machine(image);
	struct ft_snapshot_load l;
	struct ft_error err = {0};
	saved(a, "one", with);
	ft_machine_forget(a);
	if (load(&l, b, "one", with, &err))
		fail_msg("%s", err.text);
	/* 64 MiB of 32 parts, most of them zero, of which not one was read. */
	uint64_t absent = l.source.absent;
	assert_true(absent >= 8 && absent <= 24);
	struct ft_run_limits limits = {.icount = a->icount + 40, .vtime_ns = UINT64_MAX};
	assert_int_equal(ft_machine_run(b, &limits, NULL), FT_STOP_COUNT);
	assert_true(l.source.absent < absent);
	assert_true(l.source.absent > absent / 2);
	assert_int_equal(ft_machine_run(a, &limits, NULL), FT_STOP_COUNT);
	limits.icount += 20000;
	assert_int_equal(ft_machine_run(b, &limits, NULL), FT_STOP_COUNT);
	assert_int_equal(ft_machine_run(a, &limits, NULL), FT_STOP_COUNT);
	while (ft_snapshot_fill(&l))
		;
	ft_snapshot_loaded(&l);
	assert_true(ft_machine_hash(a) == ft_machine_hash(b));
	ft_machine_destroy(a);
	ft_machine_destroy(b);
}

static void plain(void **state)
{
	comes_back(NULL);
}

static void encrypted(void **state)
{
	struct ft_error err = {0};
	struct ft_snapshot s;
	struct stat st;
	comes_back(key);
	int fd = openat(at_directory, "one", O_RDONLY);
	assert_int_equal(ft_snapshot_open(&s, fd, NULL, &err), -EACCES);
	err = (struct ft_error){0};
	struct ft_snapshot_seal seal;
	assert_int_equal(ft_snapshot_authenticate(fd, NULL, &err), -EACCES);
	err = (struct ft_error){0};
	assert_int_equal(ft_snapshot_unseal(&seal, fd, other_key, &err), -EKEYREJECTED);
	assert_non_null(strstr(err.text, "another key"));
	ft_snapshot_seal(&seal, other_key);
	assert_int_equal(ft_snapshot_open(&s, fd, &seal, &err), -EKEYREJECTED);
	assert_int_equal(ft_snapshot_authenticate(fd, &seal, &err), -EKEYREJECTED);
	assert_int_equal(ft_snapshot_unseal(&seal, fd, key, &err), 0);
	assert_int_equal(ft_snapshot_authenticate(fd, &seal, &err), 0);
	/* Nothing of the guest is in it. */
	assert_int_equal(fstat(fd, &st), 0);
	uint8_t *bytes = malloc((size_t)st.st_size);
	assert_int_equal(pread(fd, bytes, (size_t)st.st_size, 0), st.st_size);
	struct ft_machine *m = guest();
	assert_null(memmem(bytes, (size_t)st.st_size, m->ram.base + 0x200000, 64));
	ft_machine_destroy(m);
	free(bytes);
	close(fd);
}

/* A clone has what is not here yet, too, and can reach it without the file's descriptor. */
static void forked(void **state)
{
	struct ft_machine *a = guest(), *b = machine(image);
	struct ft_snapshot_load l;
	struct ft_error err = {0};
	saved(a, "one", NULL);
	assert_int_equal(load(&l, b, "one", NULL, &err), 0);
	uint64_t want = ft_machine_hash(a);
	assert_true(l.source.absent > 0);
	pid_t child = fork();
	if (child == 0) {
		close_range(3, ~0u, 0);
		_exit(ft_machine_hash(b) == want ? 0 : 1);
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_true(l.source.absent > 0);
	/* A partly restored guest can be saved as well. */
	saved(b, "two", NULL);
	struct ft_machine *c = machine(image);
	struct ft_snapshot_load l2;
	assert_int_equal(load(&l2, c, "two", NULL, &err), 0);
	assert_true(ft_machine_hash(c) == want);
	ft_snapshot_loaded(&l2);
	ft_snapshot_loaded(&l);
	ft_machine_destroy(a);
	ft_machine_destroy(b);
	ft_machine_destroy(c);
}

static void changed(void **state)
{
	struct ft_machine *a = guest();
	struct stat st;
	for (unsigned with = 0; with < 2; with++) {
		saved(a, "one", with ? key : NULL);
		int fd = openat(at_directory, "one", O_RDONLY);
		assert_int_equal(fstat(fd, &st), 0);
		size_t size = (size_t)st.st_size, step = size / 150;
		uint8_t *good = malloc(size), *bytes = malloc(size);
		assert_int_equal(pread(fd, good, size, 0), size);
		close(fd);
		int bad = openat(at_directory, "bad", O_RDWR | O_CREAT | O_TRUNC, 0600);
		assert_int_equal(write(bad, good, size), size);
		for (size_t at = 0; at < size; at += at < 192 || at > size - 300 ? 1 : step) {
			struct ft_snapshot s;
			struct ft_error err = {0};
			uint8_t byte = good[at] ^ (uint8_t)(1u << at % 8);
			assert_int_equal(pwrite(bad, &byte, 1, (off_t)at), 1);
			struct ft_snapshot_seal seal;
			int error = with ? ft_snapshot_unseal(&seal, bad, key, &err) : 0;
			if (!error)
				error = ft_snapshot_open(&s, bad, with ? &seal : NULL, &err);
			if (!error) {
				error = ft_snapshot_verify(&s, &err);
				ft_snapshot_close(&s);
			}
			if (!error || !*err.text)
				fail_msg("byte %zu of %zu was changed, and nobody saw it", at, size);
			/* Header, index and footer are seen by who reads no more than them. */
			err = (struct ft_error){0};
			error = with ? ft_snapshot_unseal(&seal, bad, key, &err) : 0;
			if (!error)
				error = ft_snapshot_authenticate(bad, with ? &seal : NULL, &err);
			if ((at < 192 || at > size - 300) && (!error || !*err.text))
				fail_msg("byte %zu of %zu was changed, and is authentic", at, size);
			assert_int_equal(pwrite(bad, good + at, 1, (off_t)at), 1);
		}
		struct ft_snapshot s;
		struct ft_error err = {0};
		struct ft_snapshot_seal seal;
		assert_true(!with || !ft_snapshot_unseal(&seal, bad, key, &err));
		assert_int_equal(ft_snapshot_open(&s, bad, with ? &seal : NULL, &err), 0);
		assert_int_equal(ft_snapshot_verify(&s, &err), 0);
		ft_snapshot_close(&s);
		for (size_t length = 0; length < size; length += 1 + size / 40) {
			err = (struct ft_error){0};
			assert_int_equal(ftruncate(bad, (off_t)(size - 1 - length)), 0);
			assert_int_equal(ft_snapshot_open(&s, bad, with ? &seal : NULL, &err), -EBADMSG);
		}
		close(bad);
		free(good);
		free(bytes);
	}
	unlinkat(at_directory, "bad", 0);
	ft_machine_destroy(a);
}

/* RAM that turns out to be damaged when it is touched ends the machine, by an error that says what. */
static void damaged(void **state)
{
	struct ft_machine *a = guest(), *b = machine(image);
	struct ft_snapshot_load l;
	struct ft_snapshot s;
	struct ft_error err = {0};
	saved(a, "one", NULL);
	int fd = openat(at_directory, "one", O_RDWR);
	assert_int_equal(ft_snapshot_open(&s, fd, NULL, &err), 0);
	uint64_t offset = 0;
	for (uint64_t i = 0; i < s.count; i++)
		if (s.entries[i].kind == FT_SNAPSHOT_RAM && s.entries[i].at == 0x400000)
			offset = s.entries[i].offset + s.entries[i].stored / 2;
	ft_snapshot_close(&s);
	assert_true(offset);
	uint8_t byte;
	assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
	close(fd);
	assert_int_equal(load(&l, b, "one", NULL, &err), 0);
	struct ft_run_limits limits = {.icount = b->icount + 100000, .vtime_ns = UINT64_MAX};
	uint64_t before = b->icount;
	assert_int_equal(ft_machine_run(b, &limits, NULL), FT_STOP_ERROR);
	assert_non_null(strstr(b->error.text, "at 0x400000) was changed"));
	/* At once, within the first round of the guest's walk over its RAM: it runs on nothing that is not its own. */
	assert_true(b->icount - before < 6 * 32);
	ft_snapshot_loaded(&l);
	ft_machine_destroy(a);
	ft_machine_destroy(b);
}

static void another_machine(void **state)
{
	struct ft_machine *a = guest(), *none = machine(-1);
	struct ft_snapshot_load l;
	struct ft_error err = {0};
	char path[] = "/tmp/foretaste-image-XXXXXX";
	int other = mkstemp(path);
	unlink(path);
	assert_int_equal(ftruncate(other, 32 << 20), 0);
	assert_int_equal(pwrite(other, "x", 1, 16 << 20), 1);
	struct ft_machine *b = machine(other);
	saved(a, "one", NULL);
	assert_int_equal(load(&l, none, "one", NULL, &err), -EINVAL);
	assert_non_null(strstr(err.text, "base image"));
	err = (struct ft_error){0};
	assert_int_equal(load(&l, b, "one", NULL, &err), -EINVAL);
	assert_non_null(strstr(err.text, "base image"));
	ft_machine_destroy(a);
	ft_machine_destroy(b);
	ft_machine_destroy(none);
	close(other);
}

/* ---- Crashes --------------------------------------------------------------------------------------------------------- */

/* The system calls by which a save reaches the disk, in the order they are made; the process ends before number `fatal`. */
static unsigned calls, fatal;
static char trace[64];
ssize_t __real_write(int fd, const void *bytes, size_t n);
int __real_fsync(int fd);
int __real_renameat(int a, const char *from, int b, const char *to);
ssize_t __wrap_write(int fd, const void *bytes, size_t n);
int __wrap_fsync(int fd);
int __wrap_renameat(int a, const char *from, int b, const char *to);

static void call(char what)
{
	if (fatal && ++calls == fatal)
		_exit(9);
	size_t n = strlen(trace);
	if (n + 1 < sizeof(trace) && !(n && trace[n - 1] == what))
		trace[n] = what;
}

ssize_t __wrap_write(int fd, const void *bytes, size_t n)
{
	call('w');
	/* And in the middle of one. */
	if (fatal && calls + 1 == fatal && n > 100) {
		__real_write(fd, bytes, n / 2);
		_exit(9);
	}
	return __real_write(fd, bytes, n);
}

int __wrap_fsync(int fd)
{
	call(fd == at_directory ? 'd' : 's');
	return __real_fsync(fd);
}

int __wrap_renameat(int a, const char *from, int b, const char *to)
{
	call('r');
	return __real_renameat(a, from, b, to);
}

/* 0: none; 1, 2: which one it is by its time; fails when there is anything that is not whole. */
static unsigned there(void)
{
	struct ft_snapshot s;
	struct ft_error err = {0};
	int fd = openat(at_directory, "crash", O_RDONLY);
	if (fd < 0)
		return 0;
	if (ft_snapshot_open(&s, fd, NULL, &err) || ft_snapshot_verify(&s, &err))
		fail_msg("%s", err.text);
	unsigned which = s.header.icount == 10000 ? 1 : 2;
	ft_snapshot_close(&s);
	close(fd);
	return which;
}

static void crashes(void **state)
{
	struct ft_machine *a = guest();
	bool old = false, new = false;
	unlinkat(at_directory, "crash", 0);
	for (unsigned round = 0; round < 2; round++) {
		unsigned before = round ? 1 : 0, total = 0;
		if (round) {
			saved(a, "crash", NULL);
			struct ft_run_limits limits = {.icount = a->icount + 1, .vtime_ns = UINT64_MAX};
			assert_int_equal(ft_machine_run(a, &limits, NULL), FT_STOP_COUNT);
		}
		for (unsigned at = 1; at < 1000; at++) {
			pid_t child = fork();
			if (child == 0) {
				struct ft_snapshot_told told;
				prctl(PR_SET_PDEATHSIG, SIGKILL);
				fatal = at;
				_exit(save(a, "crash", NULL, &told, NULL) ? 1 : 0);
			}
			int status;
			assert_int_equal(waitpid(child, &status, 0), child);
			unsigned after = there(), whole = round ? 2 : 1;
			if (status == 0) {
				assert_int_equal(after, whole);
				total = at;
				break;
			}
			assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 9);
			if (after != before && after != whole)
				fail_msg("a save that died at call %u left number %u", at, after);
			old |= after == before;
			new |= after == whole;
			if (after == whole) { /* it died behind the renaming: begin again from the old one */
				unlinkat(at_directory, "crash", 0);
				if (round)
					before = 0;
			}
		}
		assert_true(total > 10);
	}
	assert_true(old && new);
	unlinkat(at_directory, "crash", 0);
	/* Nothing is renamed that is not on disk, and the new name is on disk before it is told. */
	memset(trace, 0, sizeof(trace));
	saved(a, "crash", NULL);
	assert_string_equal(trace, "wsrd");
	ft_machine_destroy(a);
}

static void full_disk(void **state)
{
	struct ft_machine *a = guest();
	struct ft_snapshot_told told;
	struct ft_error err = {0};
	int fd = open("/dev/full", O_WRONLY);
	assert_int_equal(ft_snapshot_save(a, &about, fd, NULL, &told, &err), -ENOSPC);
	assert_non_null(strstr(err.text, "cannot be written"));
	close(fd);
	ft_machine_destroy(a);
}

static void names(void **state)
{
	assert_true(ft_snapshot_name("monday-1.old_2"));
	static const char *const wrong[] = {"", ".", "..", ".hidden", "-x", "a/b", "a b", "\xc3\xa9"};
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
		assert_false(ft_snapshot_name(wrong[i]));
	char longest[66];
	memset(longest, 'a', 65);
	longest[65] = 0;
	assert_false(ft_snapshot_name(longest));
	longest[64] = 0;
	assert_true(ft_snapshot_name(longest));
}

/* A file with these disk chunks that is authentic: who made it had the key. The error of restoring it; verifying it says the same. */
static int disk_of(const uint64_t (*chunks)[3], unsigned count, struct ft_error *err)
{
	struct ft_snapshot_writer w;
	struct ft_snapshot_load l;
	struct ft_snapshot s;
	struct ft_machine *a = guest(), *b = machine(image);
	uint8_t *state, *room = calloc(1, 8 + 3 * (8 + FT_DISK_BLOCK));
	size_t length;
	struct ft_snapshot_header header = {.memory = MEMORY, .disk_size = a->devices->blk.disk.size, .guest = "web"};
	assert_int_equal(ft_disk_sample(&a->devices->blk.disk, &header.disk_sample), 0);
	int fd = openat(at_directory, "disk", O_RDWR | O_CREAT | O_TRUNC, 0600);
	*err = (struct ft_error){0};
	assert_int_equal(ft_state_save(a, &state, &length, err), 0);
	assert_int_equal(ft_snapshot_begin(&w, fd, &header, NULL, err), 0);
	assert_int_equal(ft_snapshot_put(&w, FT_SNAPSHOT_STATE, 0, state, (uint32_t)length, err), 0);
	for (unsigned i = 0; i < count; i++) {
		uint32_t n = 0;
		while (n < 3 && chunks[i][n] != UINT64_MAX)
			n++;
		memcpy(room, &n, sizeof(n));
		memcpy(room + 8, chunks[i], 8ul * n);
		memset(room + 8 + 8ul * n, (int)i + 1, (size_t)n * FT_DISK_BLOCK);
		assert_int_equal(ft_snapshot_put(&w, FT_SNAPSHOT_DISK, i, room, n * (8 + FT_DISK_BLOCK) + 8, err), 0);
	}
	assert_int_equal(ft_snapshot_end(&w, NULL, err), 0);
	ft_snapshot_writer_free(&w);
	int error = ft_snapshot_restore(&l, b, fd, NULL, err);
	if (!error)
		ft_snapshot_loaded(&l);
	struct ft_error why = {0};
	assert_int_equal(ft_snapshot_open(&s, fd, NULL, &why), 0);
	assert_int_equal(ft_snapshot_verify(&s, &why), error);
	ft_snapshot_close(&s);
	close(fd);
	free(state);
	free(room);
	ft_machine_destroy(a);
	ft_machine_destroy(b);
	return error;
}

/* Blocks of the disk ascend, within a chunk and over all of them, so that none is there twice. */
static void blocks_ascend(void **state)
{
	static const uint64_t good[][3] = {{0, 1, 7}, {8, 9, UINT64_MAX}}, falls[][3] = {{0, 7, 1}}, twice[][3] = {{0, 7, 7}},
			      over[][3] = {{0, 1, 7}, {7, 8, UINT64_MAX}}, behind[][3] = {{0, 1, 32u << 8}}, none[][3] = {{UINT64_MAX}};
	struct ft_error err;
	assert_int_equal(disk_of(good, 2, &err), 0);
	assert_int_equal(disk_of(falls, 1, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "a block of the disk is 0x1"));
	assert_int_equal(disk_of(twice, 1, &err), -EBADMSG);
	assert_int_equal(disk_of(over, 2, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "a block of the disk is 0x7"));
	assert_int_equal(disk_of(behind, 1, &err), -EBADMSG);
	assert_int_equal(disk_of(none, 1, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "count"));
}

/* Chunks out of order, twice, or where there is nothing: the index is refused, though it is authentic. */
static void chunks_ascend(void **state)
{
	static const struct {
		uint32_t kinds[3];
		uint64_t at[3];
		int error;
	} cases[] = {
	    {{1, 2, 2}, {0, 0, 0x200000}, 0},	      {{1, 2, 2}, {0, 0x200000, 0}, -EBADMSG}, {{1, 2, 2}, {0, 0x200000, 0x200000}, -EBADMSG},
	    {{1, 1, 2}, {0, 0, 0}, -EBADMSG},	      {{1, 2, 1}, {0, 0, 0}, -EBADMSG},	       {{1, 3, 3}, {0, 0, 1}, 0},
	    {{1, 3, 3}, {0, 1, 2}, -EBADMSG},	      {{1, 3, 3}, {0, 0, 2}, -EBADMSG},	       {{1, 3, 2}, {0, 0, 0}, -EBADMSG},
	    {{1, 2, 2}, {0, 0, MEMORY}, -EBADMSG},    {{1, 2, 2}, {0, 0, 4096}, -EBADMSG},     {{1, 2, 6}, {0, 0, 0}, -EBADMSG},
	    {{1, 2, 3}, {4096, 0, 0}, -EBADMSG},      {{1, 4, 5}, {0, 0, 0}, 0},	       {{1, 4, 4}, {0, 0, 0}, -EBADMSG},
	    {{1, 4, 2}, {0, 0, 0}, -EBADMSG},	      {{1, 2, 4}, {0, 0, 4096}, -EBADMSG},     {{1, 5, 4}, {0, 0, 0}, -EBADMSG},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct ft_snapshot_writer w;
		struct ft_snapshot s;
		struct ft_error err = {0};
		struct ft_snapshot_header header = {.memory = MEMORY, .guest = "web"};
		int fd = openat(at_directory, "order", O_RDWR | O_CREAT | O_TRUNC, 0600);
		assert_int_equal(ft_snapshot_begin(&w, fd, &header, NULL, &err), 0);
		for (unsigned k = 0; k < 3; k++)
			assert_int_equal(ft_snapshot_put(&w, cases[i].kinds[k], cases[i].at[k], "anything", 8, &err), 0);
		assert_int_equal(ft_snapshot_end(&w, NULL, &err), 0);
		ft_snapshot_writer_free(&w);
		int error = ft_snapshot_open(&s, fd, NULL, &err);
		if (error != cases[i].error || (error && !strstr(err.text, "entry.")))
			fail_msg("case %zu: %d %s", i, error, err.text);
		if (!error)
			ft_snapshot_close(&s);
		close(fd);
	}
}

static int key_of(const void *bytes, size_t length, mode_t mode, enum ft_snapshot_key_place place, uint8_t **read, struct ft_error *err)
{
	char path[80];
	int fd = openat(at_directory, "key", O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_int_equal(write(fd, bytes, length), length);
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
	*err = (struct ft_error){0};
	snprintf(path, sizeof(path), "%s/key", directory);
	setenv("CREDENTIALS_DIRECTORY", directory, 1);
	int error = ft_snapshot_key_read(read, place == FT_SNAPSHOT_KEY_FILE ? path : "key", place, err);
	unlinkat(at_directory, "key", 0);
	return error;
}

/* A key is 32 bytes or as many digits, and nobody else's business. */
static void keys(void **state)
{
	static const char hex[] = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F\n";
	struct ft_error err;
	uint8_t *read, want[FT_SNAPSHOT_KEY];
	for (unsigned i = 0; i < sizeof(want); i++)
		want[i] = (uint8_t)i;
	const struct {
		const void *bytes;
		size_t length;
		mode_t mode;
		enum ft_snapshot_key_place place;
		int error;
	} cases[] = {
	    {want, 32, 0600, FT_SNAPSHOT_KEY_FILE, 0},	      {hex, 64, 0400, FT_SNAPSHOT_KEY_FILE, 0},
	    {hex, 65, 0600, FT_SNAPSHOT_KEY_FILE, 0},	      {want, 32, 0400, FT_SNAPSHOT_KEY_CREDENTIAL, 0},
	    {want, 32, 0440, FT_SNAPSHOT_KEY_CREDENTIAL, 0},    {want, 32, 0444, FT_SNAPSHOT_KEY_CREDENTIAL, -EACCES},
	    {want, 32, 0640, FT_SNAPSHOT_KEY_FILE, -EACCES},  {want, 32, 0604, FT_SNAPSHOT_KEY_FILE, -EACCES},
	    {want, 32, 0620, FT_SNAPSHOT_KEY_FILE, -EACCES},  {want, 31, 0600, FT_SNAPSHOT_KEY_FILE, -EINVAL},
	    {hex, 33, 0600, FT_SNAPSHOT_KEY_FILE, -EINVAL},   {hex, 63, 0600, FT_SNAPSHOT_KEY_FILE, -EINVAL},
	    {"", 0, 0600, FT_SNAPSHOT_KEY_FILE, -EINVAL},     {(uint8_t[32]){0}, 32, 0600, FT_SNAPSHOT_KEY_FILE, -EINVAL},
	    {"00010203040506070809xx0b0c0d0e0f101112131415161718191A1B1C1D1E1F\n", 65, 0600, FT_SNAPSHOT_KEY_FILE, -EINVAL},
	    {"000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F\n\n", 66, 0600, FT_SNAPSHOT_KEY_FILE, -EINVAL},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		int error = key_of(cases[i].bytes, cases[i].length, cases[i].mode, cases[i].place, &read, &err);
		if (error != cases[i].error || (error && !strstr(err.text, "key")))
			fail_msg("case %zu: %d %s", i, error, err.text);
		assert_true(!error == (read != NULL));
		if (!error)
			assert_memory_equal(read, want, sizeof(want));
		ft_snapshot_key_free(read);
	}
	assert_int_equal(ft_snapshot_key_read(&read, "/nowhere/key", FT_SNAPSHOT_KEY_FILE, &err), -ENOENT);
	assert_int_equal(ft_snapshot_key_read(&read, directory, FT_SNAPSHOT_KEY_FILE, &err), -EINVAL);
	unsetenv("CREDENTIALS_DIRECTORY");
	err = (struct ft_error){0};
	assert_int_equal(ft_snapshot_key_read(&read, "key", FT_SNAPSHOT_KEY_CREDENTIAL, &err), -ENOENT);
	assert_non_null(strstr(err.text, "LoadCredential"));
}

static int open_all(void **state)
{
	assert_true(sodium_init() >= 0);
	assert_non_null(mkdtemp(directory));
	at_directory = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char path[] = "/tmp/foretaste-image-XXXXXX";
	image = mkstemp(path);
	unlink(path);
	return ftruncate(image, 32 << 20);
}

static int close_all(void **state)
{
	DIR *d = fdopendir(at_directory);
	struct dirent *e;
	while ((e = readdir(d)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			unlinkat(dirfd(d), e->d_name, 0);
	closedir(d);
	close(image);
	return rmdir(directory);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(plain),	       cmocka_unit_test(encrypted), cmocka_unit_test(forked),
	    cmocka_unit_test(changed),	       cmocka_unit_test(damaged),   cmocka_unit_test(another_machine),
	    cmocka_unit_test(crashes),	       cmocka_unit_test(full_disk), cmocka_unit_test(names),
	    cmocka_unit_test(keys),	       cmocka_unit_test(blocks_ascend), cmocka_unit_test(chunks_ascend),
	};
	return cmocka_run_group_tests(tests, open_all, close_all);
}
