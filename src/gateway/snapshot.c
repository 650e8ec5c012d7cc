#include "gateway/snapshot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/printable.h"
#include "gateway/guest.h"
#include "gateway/life.h"
#include "snapshot/key.h"

#define LISTED 256

static int open_directory(const struct ft_supervisor *s, struct ft_error *err)
{
	const char *path = ft_config_text(s->config, "snapshots.directory");
	if (mkdir(path, 0700) && errno != EEXIST)
		return ft_error_set(err, -errno, "the directory of snapshots cannot be made: %s", strerror(errno));
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? ft_error_set(err, -errno, "the directory of snapshots cannot be opened: %s", strerror(errno)) : fd;
}

static void refuse(struct ft_supervisor *s, uint64_t connection, const json_t *request, int code, const char *text)
{
	ft_query_refuse(&s->control, connection, json_object_get(request, "id"), code, "%s", text);
}

static void answer(struct ft_supervisor *s, uint64_t connection, const json_t *request, json_t *result)
{
	ft_control_answer(&s->control, connection,
			  json_pack("{s:O?, s:o}", "id", json_object_get(request, "id"), "result", result));
}

/* The snapshot that a request names; NULL: the client has been told. */
static const char *name_of(struct ft_supervisor *s, uint64_t connection, const json_t *request)
{
	const char *name = json_string_value(json_object_get(request, "name"));
	if (name && ft_snapshot_name(name))
		return name;
	refuse(s, connection, request, EX_USAGE,
	       "this needs the name of a snapshot: letters, digits, '-', '_' and '.', not at the beginning, at most 64");
	return NULL;
}

static int open_snapshot(const struct ft_supervisor *s, const char *name, struct ft_error *err)
{
	int directory = open_directory(s, err);
	if (directory < 0)
		return directory;
	int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	int error = errno;
	close(directory);
	return fd < 0 ? ft_error_set(err, -error, "snapshot %s cannot be opened: %s", name, strerror(error)) : fd;
}

static int exit_of(int error)
{
	return error == -ENOENT					? EX_NOINPUT
	       : error == -EACCES || error == -EPERM || error == -EKEYREJECTED ? EX_NOPERM
	       : error == -EBADMSG || error == -ENOTSUP || error == -EINVAL	 ? EX_DATAERR
									 : EX_CANTCREAT;
}

/* ---- Keys --------------------------------------------------------------------------------------------------------- */

int ft_snapshot_read_key(struct ft_supervisor *s, struct ft_error *err)
{
	const char *file = ft_config_text(s->config, "snapshots.key"), *credential = ft_config_text(s->config, "snapshots.credential");
	if (sodium_init() < 0)
		return ft_error_set(err, -ENOSYS, "libsodium cannot be used");
	if (!file && !credential)
		return 0;
	int error = ft_snapshot_key_read(&s->snapshot_key, file ? file : credential,
					 file ? FT_SNAPSHOT_KEY_FILE : FT_SNAPSHOT_KEY_CREDENTIAL, err);
	if (error)
		ft_config_place(s->config, file ? "snapshots.key" : "snapshots.credential", err);
	return error;
}

void ft_snapshot_forget_key(struct ft_supervisor *s)
{
	ft_snapshot_key_free(s->snapshot_key);
	s->snapshot_key = NULL;
}

/* The key of an existing file. 1: seal is filled; 0: the file is not encrypted. */
static int unseal(const struct ft_supervisor *s, int fd, const struct ft_snapshot_header *header, struct ft_snapshot_seal *seal,
		  struct ft_error *err)
{
	if (!header->encrypted)
		return 0;
	if (!s->snapshot_key)
		return ft_error_set(err, -EACCES, "it is encrypted, and the configuration has no key (snapshots.key, snapshots.credential)");
	int error = ft_snapshot_unseal(seal, fd, s->snapshot_key, err);
	return error ? error : 1;
}

/* The text of a key in a message: jansson keeps a copy, which wipe_seal finds. */
json_t *ft_snapshot_seal_json(const struct ft_snapshot_seal *seal)
{
	char salt[65], key[65];
	sodium_bin2hex(salt, sizeof(salt), seal->salt, sizeof(seal->salt));
	sodium_bin2hex(key, sizeof(key), seal->key, sizeof(seal->key));
	json_t *json = json_pack("{s:s, s:s}", "salt", salt, "key", key);
	sodium_memzero(key, sizeof(key));
	return json;
}

json_t *ft_snapshot_new_seal(const struct ft_supervisor *s)
{
	struct ft_snapshot_seal seal;
	if (!s->snapshot_key)
		return NULL;
	ft_snapshot_seal(&seal, s->snapshot_key);
	json_t *json = ft_snapshot_seal_json(&seal);
	sodium_memzero(&seal, sizeof(seal));
	return json;
}

void ft_snapshot_wipe_seal(const json_t *message)
{
	const json_t *key = json_object_get(json_object_get(message, "seal"), "key");
	if (json_is_string(key))
		sodium_memzero((char *)json_string_value(key), json_string_length(key));
}

/* ---- Saving ------------------------------------------------------------------------------------------------------- */

static void end_saving(struct ft_child *vmm)
{
	if (*vmm->saving)
		close(vmm->saving_fd);
	vmm->saving[0] = 0;
}

static void fail(struct ft_supervisor *s, struct ft_child *vmm, const char *why)
{
	struct ft_error err = {0};
	int directory = open_directory(s, &err);
	if (directory >= 0) {
		ft_snapshot_abandon(directory, vmm->saving);
		close(directory);
	}
	snprintf(vmm->saved_error, sizeof(vmm->saved_error), "%s", why);
	ft_supervisor_record(s, "snapshot-failed", vmm->guest, NULL, "snapshot %s of guest %s was not saved: %s", vmm->saving,
			     vmm->guest, why);
	end_saving(vmm);
}

static int send_save(struct ft_supervisor *s, struct ft_child *vmm, int fd)
{
	struct timespec now;
	char origin[2 * sizeof(vmm->origin) + 1];
	clock_gettime(CLOCK_REALTIME, &now);
	sodium_bin2hex(origin, sizeof(origin), vmm->origin, sizeof(vmm->origin));
	json_t *message = json_pack("{s:s, s:I, s:s}", "op", "snapshot", "created_ns", (json_int_t)now.tv_sec * 1000000000 + now.tv_nsec,
				    "origin", origin);
	json_t *new_seal = ft_snapshot_new_seal(s);
	if (new_seal)
		json_object_set_new(message, "seal", new_seal);
	int error = ft_child_send(vmm, json_incref(message), &fd, 1);
	ft_snapshot_wipe_seal(message);
	json_decref(message);
	return error;
}

int ft_snapshot_begin_saving(struct ft_supervisor *s, struct ft_child *vmm, const char *name, struct ft_error *err)
{
	if (vmm->state != FT_CHILD_READY || *vmm->saving || vmm->journal_pending)
		return ft_error_set(err, -EBUSY, "%s", *vmm->saving || vmm->journal_pending ? "a snapshot of this guest is being saved already" : "this guest is not up");
	int directory = open_directory(s, err), fd = directory < 0 ? directory : ft_snapshot_create(directory, name, err);
	if (directory >= 0)
		close(directory);
	if (fd < 0)
		return fd;
	snprintf(vmm->saving, sizeof(vmm->saving), "%s", name);
	snprintf(vmm->saved, sizeof(vmm->saved), "%s", name);
	vmm->saving_fd = fd;
	vmm->saved_error[0] = 0;
	int error = send_save(s, vmm, fd);
	if (!error)
		return 0;
	fail(s, vmm, "its vmm process takes no messages");
	return ft_error_set(err, -EPIPE, "the guest's vmm process takes no messages");
}

void ft_snapshot_request_save(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	struct ft_error err = {0};
	struct ft_child *vmm = ft_guest_named(s, connection, request);
	const char *name = vmm ? name_of(s, connection, request) : NULL;
	if (!name)
		return;
	int error = ft_snapshot_begin_saving(s, vmm, name, &err);
	if (error)
		refuse(s, connection, request, error == -EBUSY ? EX_TEMPFAIL : error == -EPIPE ? EX_UNAVAILABLE : exit_of(error), err.text);
	else
		answer(s, connection, request, json_pack("{s:s, s:s, s:s}", "guest", vmm->guest, "name", name, "state", "saving"));
}

void ft_snapshot_request_state(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	struct ft_child *vmm = ft_guest_named(s, connection, request);
	if (!vmm)
		return;
	const char *state = *vmm->saving ? "saving" : !*vmm->saved ? "none" : *vmm->saved_error ? "failed" : "saved";
	answer(s, connection, request,
	       json_pack("{s:s, s:s, s:s, s:s*, s:I, s:I, s:I, s:s}", "guest", vmm->guest, "name", vmm->saved, "state", state,
			 "error", *vmm->saved_error ? vmm->saved_error : NULL, "bytes", (json_int_t)vmm->saved_bytes, "took_ns",
			 (json_int_t)vmm->saved_took_ns, "pause_ns", (json_int_t)vmm->saved_pause_ns, "mac", vmm->saved_mac));
}

static uint64_t number(const json_t *message, const char *key)
{
	json_int_t value = json_integer_value(json_object_get(message, key));
	return value > 0 ? (uint64_t)value : 0;
}

bool ft_snapshot_told(struct ft_supervisor *s, struct ft_child *vmm, const json_t *message)
{
	const char *why = json_string_value(json_object_get(message, "error"));
	const char *mac = json_string_value(json_object_get(message, "mac"));
	struct ft_snapshot_header header;
	struct ft_error err = {0};
	char clean[256];
	if (vmm->kind != FT_CHILD_VMM || !*vmm->saving)
		return false;
	if (why) {
		ft_printable(clean, sizeof(clean), why, strnlen(why, 60));
		fail(s, vmm, clean);
		return true;
	}
	/* The vmm is believed that the file is whole, for whoever reads it checks that, but not that it is a snapshot of this guest. */
	int error = ft_snapshot_peek(vmm->saving_fd, &header, &err);
	if (!error && strcmp(header.guest, vmm->guest))
		error = ft_error_set(&err, -EINVAL, "its vmm process wrote another guest's snapshot");
	if (!error && s->snapshot_key && !header.encrypted)
		error = ft_error_set(&err, -EINVAL, "its vmm process did not encrypt it");
	int directory = error ? -1 : open_directory(s, &err);
	if (directory >= 0) {
		error = ft_snapshot_commit(directory, vmm->saving, vmm->saving_fd, &err);
		close(directory);
	}
	if (err.code) {
		fail(s, vmm, err.text);
		return true;
	}
	vmm->saved_bytes = number(message, "bytes");
	vmm->saved_took_ns = number(message, "took_ns");
	vmm->saved_pause_ns = number(message, "pause_ns");
	bool hex = mac && strlen(mac) == 64 && strspn(mac, "0123456789abcdef") == 64;
	snprintf(vmm->saved_mac, sizeof(vmm->saved_mac), "%s", hex ? mac : "");
	ft_supervisor_record(s, "snapshot", vmm->guest, NULL,
			     "snapshot %s of guest %s is saved: %llu bytes in %.1f s, the guest stood still for %.1f ms; its contents are %s",
			     vmm->saving, vmm->guest, (unsigned long long)vmm->saved_bytes, (double)vmm->saved_took_ns / 1e9,
			     (double)vmm->saved_pause_ns / 1e6, vmm->saved_mac);
	end_saving(vmm);
	return true;
}

void ft_snapshot_ended(struct ft_supervisor *s, struct ft_child *vmm)
{
	if (vmm->kind == FT_CHILD_VMM && *vmm->saving)
		fail(s, vmm, "its vmm process has ended");
}

/* ---- What there is --------------------------------------------------------------------------------------------------- */

static json_t *describe(int directory, const char *name)
{
	struct ft_snapshot_header header;
	struct stat st;
	char clean[80];
	int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	bool good = !ft_snapshot_peek(fd, &header, NULL) && !fstat(fd, &st);
	close(fd);
	if (!good)
		return json_pack("{s:s, s:s}", "name", name, "error", "this is no snapshot of this version");
	ft_printable(clean, sizeof(clean), header.guest, strnlen(header.guest, 19));
	return json_pack("{s:s, s:s, s:I, s:I, s:I, s:b}", "name", name, "guest", clean, "created_ns",
			 (json_int_t)(header.created_ns & INT64_MAX), "memory", (json_int_t)(header.memory & INT64_MAX), "bytes",
			 (json_int_t)st.st_size, "encrypted", header.encrypted);
}

void ft_snapshot_request_list(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	struct ft_error err = {0};
	int fd = open_directory(s, &err);
	DIR *directory = fd < 0 ? NULL : fdopendir(fd);
	json_t *list = json_array(), *one;
	if (!directory) {
		refuse(s, connection, request, EX_NOINPUT, err.code ? err.text : "the directory of snapshots cannot be read");
		json_decref(list);
		return;
	}
	for (struct dirent *e; json_array_size(list) < LISTED && (e = readdir(directory));)
		if (ft_snapshot_name(e->d_name) && (one = describe(fd, e->d_name)))
			json_array_append_new(list, one);
	closedir(directory);
	answer(s, connection, request, list);
}

void ft_snapshot_request_file(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	struct ft_snapshot_header header;
	struct ft_snapshot_seal seal;
	struct ft_error err = {0};
	const char *name = name_of(s, connection, request);
	if (!name)
		return;
	json_t *result = json_pack("{s:s, s:o}", "name", name, "file",
				   json_sprintf("%s/%s", ft_config_text(s->config, "snapshots.directory"), name));
	int sealed = 0;
	if (json_is_true(json_object_get(request, "seal"))) {
		int fd = open_snapshot(s, name, &err);
		sealed = fd < 0 ? fd : ft_snapshot_peek(fd, &header, &err);
		sealed = sealed ? sealed : unseal(s, fd, &header, &seal, &err);
		if (fd >= 0)
			close(fd);
	}
	if (sealed < 0) {
		refuse(s, connection, request, exit_of(sealed), err.text);
		json_decref(result);
		return;
	}
	if (sealed)
		json_object_set_new(result, "seal", ft_snapshot_seal_json(&seal));
	sodium_memzero(&seal, sizeof(seal));
	json_incref(result);
	answer(s, connection, request, result);
	ft_snapshot_wipe_seal(result);
	json_decref(result);
}

void ft_snapshot_request_delete(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	struct ft_error err = {0};
	char who[80];
	const char *name = name_of(s, connection, request);
	if (!name)
		return;
	int directory = open_directory(s, &err);
	int error = directory < 0 ? directory : unlinkat(directory, name, 0) || fsync(directory) ? -errno : 0;
	if (directory >= 0)
		close(directory);
	if (error) {
		ft_error_set(&err, error, "snapshot %s cannot be deleted: %s", name, strerror(-error));
		refuse(s, connection, request, exit_of(error), err.text);
		return;
	}
	ft_supervisor_record(s, "snapshot-deleted", NULL, NULL, "snapshot %s is deleted by %s", name,
			     ft_control_who(&s->control, connection, who));
	answer(s, connection, request, json_pack("{s:s}", "deleted", name));
}

/* ---- Restoring -------------------------------------------------------------------------------------------------------- */

/* Whether a file is a snapshot of this guest, unchanged, that we have the key of. */
static int check(const struct ft_supervisor *s, const struct ft_child *vmm, int fd, struct ft_snapshot_header *header, struct ft_error *err)
{
	struct ft_snapshot_seal seal;
	int error = ft_snapshot_peek(fd, header, err);
	if (!error && strcmp(header->guest, vmm->guest))
		error = ft_error_set(err, -EINVAL, "it is a snapshot of another guest");
	if (error)
		return error;
	int sealed = unseal(s, fd, header, &seal, err);
	error = sealed < 0 ? sealed : ft_snapshot_authenticate(fd, sealed ? &seal : NULL, err);
	sodium_memzero(&seal, sizeof(seal));
	return error;
}

void ft_snapshot_request_restore(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	struct ft_snapshot_header header;
	struct ft_error err = {0};
	struct ft_child *vmm = ft_guest_named(s, connection, request);
	const char *name = vmm ? name_of(s, connection, request) : NULL;
	if (!name)
		return;
	/* What cannot be restored is refused before the guest that runs is ended for it. */
	int fd = open_snapshot(s, name, &err), error = fd < 0 ? fd : check(s, vmm, fd, &header, &err);
	if (fd >= 0)
		close(fd);
	if (error) {
		ft_query_refuse(&s->control, connection, json_object_get(request, "id"), exit_of(error), "snapshot %s is not restored: %s", name,
				err.text);
		return;
	}
	snprintf(vmm->restore, sizeof(vmm->restore), "%s", name);
	vmm->restore_attach = json_is_true(json_object_get(request, "attach"));
	ft_guest_restart(s, connection, request);
}

void ft_snapshot_request_attach(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	char who[80];
	struct ft_child *vmm = ft_guest_named(s, connection, request);
	if (!vmm)
		return;
	if (vmm->state != FT_CHILD_READY || ft_child_send(vmm, json_pack("{s:s}", "op", "attach"), NULL, 0)) {
		refuse(s, connection, request, EX_TEMPFAIL, "this guest is not up");
		return;
	}
	/* A link that there is stays as it is. */
	if (vmm->isolated) {
		vmm->isolated = false;
		ft_life_link(s, vmm);
	}
	ft_supervisor_record(s, "guest-attached", vmm->guest, NULL, "the network of guest %s is attached by %s", vmm->guest,
			     ft_control_who(&s->control, connection, who));
	answer(s, connection, request, json_pack("{s:s, s:b}", "guest", vmm->guest, "attached", 1));
}

int ft_snapshot_give(struct ft_supervisor *s, struct ft_child *vmm, const char *name, bool attach, const uint8_t *origin,
		     json_t **part, struct ft_error *err)
{
	struct ft_snapshot_header header;
	struct ft_snapshot_seal seal;
	int fd = open_snapshot(s, name, err);
	int error = fd < 0 ? fd : check(s, vmm, fd, &header, err);
	if (!error && origin && memcmp(origin, header.origin, sizeof(header.origin)))
		error = ft_error_set(err, -ESTALE, "it was saved with another image, kernel, command line or configuration");
	int sealed = error ? error : unseal(s, fd, &header, &seal, err);
	if (sealed < 0) {
		if (fd >= 0)
			close(fd);
		return sealed;
	}
	*part = json_pack("{s:b}", "attach", attach);
	if (sealed)
		json_object_set_new(*part, "seal", ft_snapshot_seal_json(&seal));
	sodium_memzero(&seal, sizeof(seal));
	return fd;
}

int ft_snapshot_start(struct ft_supervisor *s, struct ft_child *vmm, json_t **part, struct ft_error *err)
{
	char name[sizeof(vmm->restore)];
	if (!*vmm->restore)
		return -1;
	memcpy(name, vmm->restore, sizeof(name));
	/* Once: a guest that comes to grief afterwards starts as it always does. */
	vmm->restore[0] = 0;
	int fd = ft_snapshot_give(s, vmm, name, vmm->restore_attach, NULL, part, err);
	if (fd < 0)
		return fd == -1 ? -EIO : fd;
	ft_supervisor_record(s, "guest-restored", vmm->guest, NULL, "guest %s starts from snapshot %s%s", vmm->guest, name,
			     vmm->restore_attach ? "" : ", its network isolated");
	return fd;
}
