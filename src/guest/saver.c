#include "guest/saver.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "clone/book.h"
#include "clone/hygiene.h"
#include "vmm/dev/devices.h"

static const struct ft_confine_rule rules[] = {
    {"write", "the snapshot; what became of it"},
    {"fsync", "the snapshot is on disk before anybody is told"},
    {"pread64", "a sample of the disk's base image; the overlay"},
    {"getrandom", "the snapshot's salt; malloc"},
    {"mmap", "malloc; never executable", .arg = 3, .mask = PROT_EXEC, .equals = 0},
    {"munmap", "malloc"},
    {"mremap", "malloc"},
    {"brk", "malloc"},
    {"madvise", "malloc gives memory back"},
    {"futex", "libc's locks"},
    {"rt_sigreturn", "the engine's handlers"},
    {"exit_group", "the end"},
};

static uint64_t monotonic_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int ft_saver_open(struct ft_saver *saver, const struct ft_observer *observer, struct ft_error *err)
{
	*saver = (struct ft_saver){.observer = observer, .result = -1};
	return ft_confine_compile(rules, sizeof(rules) / sizeof(*rules), &saver->filter, err);
}

static void forget(struct ft_saver *saver)
{
	if (saver->result >= 0)
		close(saver->result);
	saver->result = -1;
	saver->pid = 0;
}

void ft_saver_close(struct ft_saver *saver)
{
	if (saver->pid) {
		kill(saver->pid, SIGKILL);
		while (waitpid(saver->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	forget(saver);
	ft_confine_filter_free(&saver->filter);
}

static int save(const struct ft_saver *saver, struct ft_machine *m, const struct ft_snapshot_about *about, int file, int disk, int overlay,
		const struct ft_snapshot_seal *seal, int result, pid_t parent)
{
	int keep[FT_HYGIENE_KEEP] = {file, disk, result, overlay, -1};
	struct ft_saver_end end = {0};
	struct ft_error err = {0};
	if (ft_hygiene_become(&saver->filter, parent, keep, FT_HYGIENE_KEEP))
		return 2;
	if (m->devices->has_disk)
		ft_disk_seal(&m->devices->blk.disk);
	m->hooks.mask = 0;
	m->backend = (struct ft_backend){0};
	struct ft_snapshot_about all = *about;
	uint8_t *book = NULL;
	if (saver->observer && ft_book_save(saver->observer, &book, &all.book.length))
		ft_error_set(&err, -ENOMEM, "no memory to save what is known of the guest's processes");
	all.book.bytes = book;
	end.error = err.code ? err.code : ft_snapshot_save(m, &all, file, seal, &end.told, &err);
	free(book);
	snprintf(end.text, sizeof(end.text), "%s", err.text);
	return write(result, &end, sizeof(end)) == sizeof(end) ? 0 : 3;
}

int ft_saver_begin(struct ft_saver *saver, struct ft_machine *m, const struct ft_snapshot_about *about, int file, int disk, int overlay,
		   uint64_t number, const struct ft_snapshot_seal *seal, struct ft_error *err)
{
	int pair[2];
	if (saver->pid) {
		close(file);
		return ft_error_set(err, -EBUSY, "a snapshot of this guest is being saved already");
	}
	if (pipe2(pair, O_CLOEXEC | O_NONBLOCK)) {
		int error = ft_error_set(err, -errno, "a snapshot cannot be saved: %s", strerror(errno));
		close(file);
		return error;
	}
	uint64_t began = monotonic_ns();
	if (m->engine_ops && m->engine_ops->hosted)
		m->engine_ops->before_fork(m->engine);
	if (m->error.code) {
		*err = m->error;
		close(file);
		close(pair[0]);
		close(pair[1]);
		return err->code;
	}
	pid_t self = getpid(), pid = fork();
	if (pid == 0)
		_exit(save(saver, m, about, file, disk, overlay, seal, pair[1], self));
	int error = errno;
	close(pair[1]);
	close(file);
	if (pid < 0) {
		close(pair[0]);
		return ft_error_set(err, -error, "a snapshot cannot be saved: %s", strerror(error));
	}
	saver->pid = pid;
	saver->number = number;
	saver->result = pair[0];
	saver->began_ns = began;
	saver->pause_ns = monotonic_ns() - began;
	return 0;
}

bool ft_saver_work(struct ft_saver *saver, struct ft_saver_end *end)
{
	int status;
	if (!saver->pid || waitpid(saver->pid, &status, WNOHANG) != saver->pid)
		return false;
	/* The fork was ours, but it has read what the guest wrote: it is believed as far as it makes sense. */
	ssize_t n = read(saver->result, end, sizeof(*end));
	if (n != sizeof(*end)) {
		*end = (struct ft_saver_end){.error = -EIO};
		snprintf(end->text, sizeof(end->text), "the process that saved it ended with status 0x%x", (unsigned)status);
	}
	end->text[sizeof(end->text) - 1] = 0;
	if (!end->error && (!WIFEXITED(status) || WEXITSTATUS(status)))
		end->error = -EIO;
	end->took_ns = monotonic_ns() - saver->began_ns;
	end->pause_ns = saver->pause_ns;
	forget(saver);
	return true;
}
