#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "medium.h"

uint64_t medium_now = 1000000000000000000ull;

uint64_t medium_clock(void)
{
	return medium_now;
}

static bool fails(struct medium *m)
{
	return ++m->calls == m->fail_at;
}

static void note(struct medium *m, uint64_t at, const void *bytes, uint64_t length)
{
	if (!m->tracking || !length)
		return;
	if (m->pending_count == m->pending_room) {
		m->pending_room = m->pending_room ? 2 * m->pending_room : 64;
		m->pending = realloc(m->pending, m->pending_room * sizeof(*m->pending));
		assert_non_null(m->pending);
	}
	struct medium_write *w = &m->pending[m->pending_count++];
	*w = (struct medium_write){.at = at, .length = length};
	if (bytes) {
		w->bytes = malloc(length);
		assert_non_null(w->bytes);
		memcpy(w->bytes, bytes, length);
	}
}

static ssize_t medium_pwritev(void *context, int fd, const struct iovec *parts, int count, off_t at)
{
	struct medium *m = context;
	uint8_t *all = malloc(2u << 20);
	size_t length = 0;
	assert_non_null(all);
	for (int i = 0; i < count; i++) {
		assert_true(length + parts[i].iov_len <= 2u << 20);
		memcpy(all + length, parts[i].iov_base, parts[i].iov_len);
		length += parts[i].iov_len;
	}
	bool failed = fails(m);
	if (failed)
		length = m->torn ? length / 2 : 0;
	if (length) {
		assert_int_equal(pwrite(fd, all, length, at), length);
		note(m, (uint64_t)at, all, length);
	}
	free(all);
	return failed && !m->torn ? m->failure : (ssize_t)length;
}

static void forget(struct medium *m)
{
	for (uint64_t i = 0; i < m->pending_count; i++)
		free(m->pending[i].bytes);
	m->pending_count = 0;
}

/* What is pending is durable now. */
static void settle(struct medium *m)
{
	for (uint64_t i = 0; i < m->pending_count; i++) {
		const struct medium_write *w = &m->pending[i];
		uint64_t end = w->at + w->length;
		if (end > m->durable_length && w->bytes) {
			m->durable = realloc(m->durable, end);
			assert_non_null(m->durable);
			memset(m->durable + m->durable_length, 0, end - m->durable_length);
			m->durable_length = end;
		}
		end = end < m->durable_length ? end : m->durable_length;
		if (w->bytes)
			memcpy(m->durable + w->at, w->bytes, w->length);
		else if (w->at < end)
			memset(m->durable + w->at, 0, end - w->at);
	}
	forget(m);
}

static int medium_sync(void *context, int fd)
{
	struct medium *m = context;
	if (fails(m))
		return m->failure;
	settle(m);
	return 0;
}

static int medium_allocate(void *context, int fd, off_t at, off_t length)
{
	struct medium *m = context;
	return fails(m) ? m->failure : (uint64_t)(at + length) > m->room ? -ENOSPC : 0;
}

static int medium_punch(void *context, int fd, off_t at, off_t length)
{
	struct medium *m = context;
	if (fails(m))
		return m->failure;
	assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, length), 0);
	note(m, (uint64_t)at, NULL, (uint64_t)length);
	return 0;
}

void medium_open(struct medium *m, bool tracking)
{
	char path[64];
	*m = (struct medium){.room = UINT64_MAX, .tracking = tracking, .failure = -EIO};
	m->io = (struct ft_overlay_io){
	    .context = m, .pwritev = medium_pwritev, .sync = medium_sync, .allocate = medium_allocate, .punch = medium_punch};
	m->fd = memfd_create("medium", MFD_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", m->fd);
	m->read_fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(m->fd >= 0 && m->read_fd >= 0);
}

void medium_close(struct medium *m)
{
	forget(m);
	free(m->pending);
	free(m->durable);
	close(m->fd);
	close(m->read_fd);
}

void medium_cut(const struct medium *m, struct medium *to, bool (*there)(void *context, uint64_t write, uint64_t sector), void *context)
{
	static const uint8_t zeros[65536];
	medium_open(to, m->tracking);
	for (uint64_t at = 0; at < m->durable_length; at += sizeof(zeros)) {
		uint64_t n = m->durable_length - at < sizeof(zeros) ? m->durable_length - at : sizeof(zeros);
		if (memcmp(m->durable + at, zeros, n))
			assert_int_equal(pwrite(to->fd, m->durable + at, n, (off_t)at), n);
	}
	/* What is there after a cut is durable. */
	note(to, 0, m->durable, m->durable_length);
	for (uint64_t i = 0; there && i < m->pending_count; i++) {
		const struct medium_write *w = &m->pending[i];
		for (uint64_t sector = w->at / MEDIUM_SECTOR; sector * MEDIUM_SECTOR < w->at + w->length; sector++) {
			uint64_t from = sector * MEDIUM_SECTOR > w->at ? sector * MEDIUM_SECTOR : w->at;
			uint64_t end = (sector + 1) * MEDIUM_SECTOR < w->at + w->length ? (sector + 1) * MEDIUM_SECTOR : w->at + w->length;
			if (!w->bytes && !there(context, i, 0))
				break;
			if (!w->bytes) { /* holes come as a whole */
				assert_int_equal(fallocate(to->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)w->at, (off_t)w->length), 0);
				note(to, w->at, NULL, w->length);
				break;
			}
			if (!there(context, i, sector - w->at / MEDIUM_SECTOR))
				continue;
			assert_int_equal(pwrite(to->fd, w->bytes + from - w->at, end - from, (off_t)from), end - from);
			note(to, from, w->bytes + from - w->at, end - from);
		}
	}
	settle(to);
}
