#include "gateway/files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

void ft_files_close(int *fds, int count)
{
	for (int i = 0; i < count; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
		fds[i] = -1;
	}
}

int ft_files_directory(const char *path, mode_t mode, struct ft_error *err)
{
	char copy[PATH_MAX];
	if (snprintf(copy, sizeof(copy), "%s", path) >= (int)sizeof(copy))
		return ft_error_set(err, -ENAMETOOLONG, "cannot make the directory %.64s...: %s", path,
				    strerror(ENAMETOOLONG));
	for (char *p = copy + 1;; p++) {
		if (*p && *p != '/')
			continue;
		bool last = !*p;
		*p = 0;
		if (mkdir(copy, last ? mode : 0755) && errno != EEXIST)
			return ft_error_set(err, -errno, "cannot make the directory %s: %s", copy,
					    strerror(errno));
		if (last)
			return 0;
		*p = '/';
	}
}

int ft_files_first_hold(int state, long long *first, struct ft_error *err)
{
	char text[32] = "";
	long long used = 0;
	int fd = openat(state, "holds", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 && errno != ENOENT)
		return ft_error_set(err, -errno, "cannot open the file holds in the state directory: %s",
				    strerror(errno));
	if (fd >= 0) {
		char *end = text;
		ssize_t n = read(fd, text, sizeof(text) - 1);
		close(fd);
		used = n > 0 ? strtoll(text, &end, 10) : 0;
		if (n <= 0 || end == text || *end != '\n' || used < 0 ||
		    used > INT64_MAX / FT_FILES_HOLDS - 2)
			return ft_error_set(
			    err, -EINVAL,
			    "the file holds in the state directory is damaged: expected a number");
	}
	*first = used * FT_FILES_HOLDS + 1;
	int length = snprintf(text, sizeof(text), "%lld\n", used + 1);
	fd = openat(state, "holds.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
	int error = fd < 0 ? -errno : 0;
	/* On disk before the first number is used: after a power cut it must not be given out again. */
	if (!error && (write(fd, text, (size_t)length) != length || fsync(fd)))
		error = errno ? -errno : -EIO;
	if (fd >= 0)
		close(fd);
	if (!error && renameat(state, "holds.new", state, "holds"))
		error = -errno;
	return error ? ft_error_set(err, error, "cannot write the file holds in the state directory: %s",
				    strerror(-error))
		     : 0;
}

int ft_files_read_json(int state, const char *name, json_t **json, struct ft_error *err)
{
	json_error_t why;
	*json = NULL;
	int fd = openat(state, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0)
		return ft_error_set(err, -errno, "cannot open the file %s in the state directory: %s", name,
				    strerror(errno));
	*json = json_loadfd(fd, JSON_REJECT_DUPLICATES, &why);
	close(fd);
	if (json_is_object(*json))
		return 0;
	json_decref(*json);
	*json = NULL;
	return ft_error_set(err, -EINVAL, "the file %s in the state directory is damaged: expected a JSON object",
			    name);
}

int ft_files_write_json(int state, const char *name, const json_t *json, struct ft_error *err)
{
	char fresh[64];
	snprintf(fresh, sizeof(fresh), "%s.new", name);
	int fd = openat(state, fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	int error = fd < 0 ? -errno : 0;
	if (!error && (json_dumpfd(json, fd, JSON_INDENT(1)) || fsync(fd)))
		error = errno ? -errno : -EIO;
	if (fd >= 0)
		close(fd);
	if (!error && (renameat(state, fresh, state, name) || fsync(state)))
		error = -errno;
	return error ? ft_error_set(err, error, "cannot write the file %s in the state directory: %s", name,
				    strerror(-error))
		     : 0;
}

int ft_files_lock(const struct ft_config *config, struct ft_error *err)
{
	const char *state = ft_config_text(config, "state");
	int error = ft_files_directory(state, 0755, err);
	if (error) {
		ft_config_place(config, "state", err);
		return error;
	}
	int fd = open(state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) {
		error = ft_error_set(err, -errno, "cannot open the state directory %s: %s", state,
				     strerror(errno));
		ft_config_place(config, "state", err);
		return error;
	}
	if (flock(fd, LOCK_EX | LOCK_NB)) {
		error = errno == EWOULDBLOCK ? -EADDRINUSE : -errno;
		close(fd);
		return error == -EADDRINUSE
			   ? ft_error_set(err, error, "the state directory %s is in use by another gateway",
					  state)
			   : ft_error_set(err, error, "cannot lock the state directory %s: %s", state,
					  strerror(-error));
	}
	return fd;
}

static int named_error(const struct ft_config *config, const char *path, const char *what, const char *file,
		       int error, struct ft_error *err)
{
	ft_error_set(err, -error, "%s: cannot open %s: %s", what, file, strerror(error));
	ft_config_place(config, path, err);
	return -error;
}

/* One image of a guest; /dev/null for what it has not. */
static int open_image(const struct ft_config *config, const char *guest, const char *name,
		      struct ft_error *err)
{
	char path[128];
	snprintf(path, sizeof(path), "guests.%s.%s", guest, name);
	const char *file = ft_config_text(config, path);
	/* Non-blocking, so that a FIFO in the wrong place is an error and no wait. */
	int fd = open(file ? file : "/dev/null", O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;
	if (fd < 0)
		return named_error(config, path, name, file ? file : "/dev/null", errno, err);
	if (file && (fstat(fd, &st) || !(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)))) {
		close(fd);
		ft_error_set(err, -EINVAL, "%s: %s is no file", name, file);
		ft_config_place(config, path, err);
		return -EINVAL;
	}
	if (file && S_ISREG(st.st_mode) && st.st_size == 0) {
		close(fd);
		ft_error_set(err, -EINVAL, "%s: %s is empty", name, file);
		ft_config_place(config, path, err);
		return -EINVAL;
	}
	fcntl(fd, F_SETFL, 0);
	return fd;
}

/* A log of ours: appended to, never through a symbolic link that somebody else put there. */
static int open_log(const struct ft_config *config, const char *path, const char *what, struct ft_error *err)
{
	const char *file = ft_config_text(config, path);
	/* Who collects logs is of our group, whatever the umask is for all else. */
	mode_t mask = umask(0);
	int fd =
	    open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK, 0640);
	umask(mask);
	struct stat st;
	if (fd < 0)
		return named_error(config, path, what, file, errno, err);
	if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		close(fd);
		ft_error_set(err, -EINVAL, "%s: %s is not a regular file", what, file);
		ft_config_place(config, path, err);
		return -EINVAL;
	}
	fcntl(fd, F_SETFL, O_APPEND);
	return fd;
}

int ft_files_vmm(const struct ft_config *config, const char *guest, int fds[FT_FILES_VMM],
		 struct ft_error *err)
{
	static const char *const images[] = {"kernel", "initrd", "disk"};
	for (int i = 0; i < FT_FILES_VMM; i++)
		fds[i] = -1;
	for (int i = 0; i < FT_FILES_VMM; i++) {
		char path[128];
		snprintf(path, sizeof(path), "guests.%s.console", guest);
		fds[i] = i < 3 ? open_image(config, guest, images[i], err)
			       : open_log(config, path, "console log", err);
		if (fds[i] < 0) {
			int error = fds[i];
			ft_files_close(fds, FT_FILES_VMM);
			return error;
		}
	}
	return 0;
}

int ft_files_overlay(int state, const char *guest, int fds[2], struct ft_error *err)
{
	struct stat st;
	fds[0] = fds[1] = -1;
	if (mkdirat(state, "disks", 0700) && errno != EEXIST)
		return ft_error_set(err, -errno, "cannot make the directory disks in the state directory: %s", strerror(errno));
	int directory = openat(state, "disks", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int error = directory < 0 ? -errno : 0;
	for (int i = 0; i < 2 && !error; i++) {
		int flags = i ? O_RDONLY : O_RDWR | O_CREAT;
		fds[i] = openat(directory, guest, flags | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK, 0600);
		error = fds[i] < 0 || fstat(fds[i], &st) ? -errno : S_ISREG(st.st_mode) ? 0 : -EINVAL;
	}
	/* A file that is new has its name for good before anything is promised. */
	if (!error && fsync(directory))
		error = -errno;
	if (directory >= 0)
		close(directory);
	if (!error)
		return 0;
	ft_files_close(fds, 2);
	return ft_error_set(err, error, "cannot open disks/%s in the state directory: %s", guest, strerror(-error));
}

int ft_files_log(const struct ft_config *config, const char *guest, struct ft_error *err)
{
	char path[128] = "feed.file";
	if (guest)
		snprintf(path, sizeof(path), "guests.%s.console", guest);
	return open_log(config, path, guest ? "console log" : "feed", err);
}

/* Makes the directory with the ledger's group, opens it. In that group while it lasts, which is what lets its owner give it
 * away without a capability that would let us give away any file. */
static int open_in_group(const char *path, gid_t gid, struct stat *st)
{
	gid_t own = getegid();
	if (setegid(gid))
		return -errno;
	bool made = !mkdir(path, 0770);
	int error = made || errno == EEXIST ? 0 : -errno;
	int fd = error ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	/* Whatever the umask, and though a directory above may pass its own group on. */
	if (!error && (fd < 0 || (made && (fchown(fd, (uid_t)-1, gid) || fchmod(fd, 0770))) || fstat(fd, st)))
		error = -errno;
	if (setegid(own) && !error)
		error = -errno;
	if (error && fd >= 0)
		close(fd);
	return error ? error : fd;
}

/* A directory that the ledger may write to: of its group, or its own. Only one that we make is given away: a name that is
 * wrong by accident ("/tmp") must not be opened to another process. */
static int open_own_directory(const char *path, uid_t uid, struct ft_error *err)
{
	char above[PATH_MAX];
	if (snprintf(above, sizeof(above), "%s", path) >= (int)sizeof(above))
		return ft_error_set(err, -ENAMETOOLONG, "cannot make the directory %.64s...: %s", path,
				    strerror(ENAMETOOLONG));
	char *slash = strrchr(above, '/');
	*slash = 0;
	int error = slash == above ? 0 : ft_files_directory(above, 0755, err);
	if (error)
		return error;
	struct stat st;
	int fd = open_in_group(path, uid, &st);
	if (fd >= 0 && (st.st_uid == uid || (st.st_gid == uid && (st.st_mode & S_IRWXG) == S_IRWXG)))
		return fd;
	if (fd < 0 && (fd != -EACCES || stat(path, &st)))
		return ft_error_set(err, fd, "cannot use the directory %s: %s", path, strerror(-fd));
	ft_files_close(&fd, 1);
	return ft_error_set(err, -EACCES,
			    "the directory %s belongs to uid %u and gid %u, but the ledger runs as uid and gid %u (uid_base): "
			    "give it that group and mode 0770 (and what is in it that owner), or name a new directory",
			    path, (unsigned)st.st_uid, (unsigned)st.st_gid, (unsigned)uid);
}

int ft_files_ledger(const struct ft_config *config, uid_t uid, int fds[FT_FILES_LEDGER], struct ft_error *err)
{
	char own[PATH_MAX];
	const char *keys[] = {"feed.file", "quarantine.directory", "state"};
	snprintf(own, sizeof(own), "%s/ledger", ft_config_text(config, "state"));
	fds[0] = fds[1] = fds[2] = -1;
	for (int i = 0; i < FT_FILES_LEDGER; i++) {
		const char *directory = i == 2 ? own : ft_config_text(config, keys[i]);
		fds[i] =
		    i == 0 ? open_log(config, keys[i], "feed", err) : open_own_directory(directory, uid, err);
		if (fds[i] >= 0)
			continue;
		int error = fds[i];
		if (i)
			ft_config_place(config, keys[i], err);
		ft_files_close(fds, FT_FILES_LEDGER);
		return error;
	}
	return 0;
}

int ft_files_check(const struct ft_config *config, struct ft_error *err)
{
	static const char *const images[] = {"kernel", "initrd", "disk"};
	const char *guest;
	json_t *value;
	json_object_foreach((json_t *)ft_config_get(config, "guests"), guest, value) for (int i = 0; i < 3;
											  i++)
	{
		int fd = open_image(config, guest, images[i], err);
		if (fd < 0)
			return fd;
		close(fd);
	}
	return 0;
}
