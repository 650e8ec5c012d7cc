#include "snapshot/key.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEX (2 * FT_SNAPSHOT_KEY)

static int place_of(const char *path, enum ft_snapshot_key_place place, char full[PATH_MAX], struct ft_error *err)
{
	const char *directory = place == FT_SNAPSHOT_KEY_CREDENTIAL ? getenv("CREDENTIALS_DIRECTORY") : "";
	if (!directory)
		return ft_error_set(err, -ENOENT, "the credential %s cannot be read: there is no $CREDENTIALS_DIRECTORY, which systemd "
						  "sets for a service with LoadCredential=",
				    path);
	if (snprintf(full, PATH_MAX, "%s%s%s", directory, *directory ? "/" : "", path) >= PATH_MAX)
		return ft_error_set(err, -ENAMETOOLONG, "the key's name is too long");
	return 0;
}

/* A credential lies in a directory that the service alone can enter; its mode has group bits where that is done by an ACL, whose
 * mask they are. */
static int check_mode(int fd, const char *full, enum ft_snapshot_key_place place, struct ft_error *err)
{
	struct stat st;
	mode_t others = place == FT_SNAPSHOT_KEY_CREDENTIAL ? S_IRWXO : S_IRWXG | S_IRWXO;
	if (fstat(fd, &st))
		return ft_error_set(err, -errno, "the key %s cannot be read: %s", full, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return ft_error_set(err, -EINVAL, "the key %s is no file", full);
	if (st.st_mode & others)
		return ft_error_set(err, -EACCES, "the key %s is open to others: its mode is %04o, expected 0600", full,
				    (unsigned)st.st_mode & 07777);
	return 0;
}

static int decode(uint8_t *key, const uint8_t *bytes, size_t n)
{
	size_t length = 0;
	const char *end;
	if (n == FT_SNAPSHOT_KEY)
		memcpy(key, bytes, n);
	else if ((n != HEX && (n != HEX + 1 || bytes[HEX] != '\n')) ||
		 sodium_hex2bin(key, FT_SNAPSHOT_KEY, (const char *)bytes, HEX, NULL, &length, &end) || length != FT_SNAPSHOT_KEY)
		return -EINVAL;
	return sodium_is_zero(key, FT_SNAPSHOT_KEY) ? -EINVAL : 0; /* a file that somebody forgot to fill */
}

int ft_snapshot_key_read(uint8_t **key, const char *path, enum ft_snapshot_key_place place, struct ft_error *err)
{
	char full[PATH_MAX];
	*key = NULL;
	int error = place_of(path, place, full, err);
	if (error)
		return error;
	int fd = open(full, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return ft_error_set(err, -errno, "the key %s cannot be opened: %s", full, strerror(errno));
	error = check_mode(fd, full, place, err);
	uint8_t *bytes = sodium_malloc(HEX + 2), *made = sodium_malloc(FT_SNAPSHOT_KEY);
	if (!error && (!bytes || !made))
		error = ft_error_set(err, -ENOMEM, "no memory for a key");
	ssize_t n = error ? 0 : read(fd, bytes, HEX + 2);
	if (!error && n < 0)
		error = ft_error_set(err, -errno, "the key %s cannot be read: %s", full, strerror(errno));
	if (!error && decode(made, bytes, (size_t)n))
		error = ft_error_set(err, -EINVAL, "%s is no key: expected 32 random bytes, or 64 hexadecimal digits", full);
	close(fd);
	sodium_free(bytes);
	if (!error && sodium_mprotect_readonly(made))
		error = ft_error_set(err, -errno, "the key cannot be protected: %s", strerror(errno));
	if (error)
		sodium_free(made);
	else
		*key = made;
	return error;
}

void ft_snapshot_key_free(uint8_t *key)
{
	sodium_free(key);
}
