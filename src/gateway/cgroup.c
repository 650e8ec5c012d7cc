#include "gateway/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PREFIX     "foretaste-"
#define SUPERVISOR "gateway" /* of the leaf that we are in ourselves */
#define PERIOD_US  100000u   /* the kernel's own default */

static int write_text(int directory, const char *name, const char *text)
{
	int fd = openat(directory, name, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t n = write(fd, text, strlen(text));
	int error = n < 0 ? -errno : 0;
	close(fd);
	return error;
}

static int write_pid(int directory, const char *name, pid_t pid)
{
	char text[16];
	snprintf(text, sizeof(text), "%d", (int)pid);
	return write_text(directory, name, text);
}

/* Is the word one of those in the file? */
static bool has_word(int directory, const char *name, const char *word)
{
	char text[512] = "";
	int fd = openat(directory, name, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = 0;
	for (char *save, *at = strtok_r(text, " \n", &save); at; at = strtok_r(NULL, " \n", &save))
		if (!strcmp(at, word))
			return true;
	return false;
}

/* Where cgroup v2 is mounted. */
static bool find_mount(char path[PATH_MAX])
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	char *line = NULL;
	size_t room = 0;
	bool found = false;
	while (file && !found && getline(&line, &room, file) > 0) {
		/* "36 35 98:0 / /sys/fs/cgroup rw,... - cgroup2 cgroup2 rw" */
		char *type = strstr(line, " - ");
		found = type && !strncmp(type + 3, "cgroup2 ", 8) &&
			sscanf(line, "%*s %*s %*s %*s %4095s", path) == 1;
	}
	free(line);
	if (file)
		fclose(file);
	return found;
}

/* Our own group below the mount: "0::/system.slice/foretaste.service". */
static bool find_group(char path[PATH_MAX])
{
	FILE *file = fopen("/proc/self/cgroup", "re");
	char *line = NULL;
	size_t room = 0;
	bool found = false;
	while (file && !found && getline(&line, &room, file) > 0) {
		found = !strncmp(line, "0::/", 4);
		if (found)
			snprintf(path, PATH_MAX, "%.*s", (int)strcspn(line + 3, "\n"), line + 3);
	}
	free(line);
	if (file)
		fclose(file);
	return found;
}

static int open_own(struct ft_error *err)
{
	char mount[PATH_MAX], group[PATH_MAX], path[2 * PATH_MAX];
	if (!find_mount(mount) || !find_group(group))
		return ft_error_set(err, -ENOTSUP, "there is no cgroup v2 on this machine");
	snprintf(path, sizeof(path), "%s%s", mount, group);
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return ft_error_set(err, -errno, "cannot open our cgroup %s: %s", path, strerror(errno));
	if (has_word(fd, "cgroup.controllers", "cpu"))
		return fd;
	close(fd);
	return ft_error_set(err, -ENOTSUP, "our cgroup %s has no cpu controller", path);
}

static void group_name(char name[64], pid_t gateway, const char *what)
{
	snprintf(name, 64, PREFIX "%d-%s", (int)gateway, what);
}

/* Groups of gateways that were killed are empty and stay. */
static void sweep(int own, bool all)
{
	int fd = openat(own, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		int pid;
		if (sscanf(entry->d_name, PREFIX "%d-", &pid) != 1 || pid <= 0)
			continue;
		bool dead = kill(pid, 0) && errno == ESRCH;
		if (dead || (all && pid == getpid()))
			unlinkat(own, entry->d_name, AT_REMOVEDIR);
	}
	if (dir)
		closedir(dir);
}

/* A group with processes of its own cannot bound groups below it: we have to be in a leaf. */
static int delegate(struct ft_cgroup *cgroup, struct ft_error *err)
{
	char name[64], procs[96];
	group_name(name, getpid(), SUPERVISOR);
	snprintf(procs, sizeof(procs), "%s/cgroup.procs", name);
	int error = mkdirat(cgroup->own, name, 0755) && errno != EEXIST ? -errno : 0;
	if (!error)
		error = write_pid(cgroup->own, procs, getpid());
	cgroup->moved = !error;
	if (!error)
		error = write_text(cgroup->own, "cgroup.subtree_control", "+cpu");
	return error ? ft_error_set(err, error,
				    "our cgroup is not ours alone (systemd: Delegate=cpu makes it so): %s",
				    strerror(-error))
		     : 0;
}

int ft_cgroup_open(struct ft_cgroup *cgroup, struct ft_error *err)
{
	int fd = open_own(err);
	*cgroup = (struct ft_cgroup){.own = fd < 0 ? -1 : fd};
	if (fd < 0)
		return fd;
	sweep(fd, false);
	int error = has_word(fd, "cgroup.subtree_control", "cpu") ? 0 : delegate(cgroup, err);
	if (error)
		ft_cgroup_close(cgroup);
	return error;
}

/* One setting of a group. */
static int set(const struct ft_cgroup *cgroup, const char *group, const char *file, const char *value)
{
	char path[96];
	snprintf(path, sizeof(path), "%s/%s", group, file);
	return write_text(cgroup->own, path, value);
}

int ft_cgroup_put(struct ft_cgroup *cgroup, const char *guest, unsigned percent, unsigned weight, pid_t pid,
		  struct ft_error *err)
{
	char what[48], name[64], file[96], most[32], part[16];
	/* No guest's name makes this one that of our own leaf. */
	snprintf(what, sizeof(what), "guest-%s", guest);
	group_name(name, getpid(), what);
	int error = mkdirat(cgroup->own, name, 0755) && errno != EEXIST ? -errno : 0;
	if (percent)
		snprintf(most, sizeof(most), "%u %u", percent * (PERIOD_US / 100), PERIOD_US);
	else
		snprintf(most, sizeof(most), "max");
	snprintf(part, sizeof(part), "%u", weight);
	if (!error)
		error = set(cgroup, name, "cpu.max", most);
	if (!error)
		error = set(cgroup, name, "cpu.weight", part);
	snprintf(file, sizeof(file), "%s/cgroup.procs", name);
	if (!error)
		error = write_pid(cgroup->own, file, pid);
	return error ? ft_error_set(err, error, "its cgroup cannot be made: %s", strerror(-error)) : 0;
}

void ft_cgroup_close(struct ft_cgroup *cgroup)
{
	if (cgroup->own < 0)
		return;
	if (cgroup->moved) {
		write_text(cgroup->own, "cgroup.subtree_control", "-cpu");
		write_pid(cgroup->own, "cgroup.procs", getpid());
	}
	sweep(cgroup->own, true);
	close(cgroup->own);
	cgroup->own = -1;
}
