/* What the service manager hears: each thing once, whole, and again when its socket was full. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "gateway/notify.h"

#define SECOND 1000000000ull

struct manager {
	char directory[64], path[108];
	int fd;
	struct ft_notify notify;
};

static int listen_at(struct manager *m, const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	size_t length = offsetof(struct sockaddr_un, sun_path) + strlen(path);
	if (*path == '@')
		address.sun_path[0] = 0;
	m->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	return bind(m->fd, (struct sockaddr *)&address, (socklen_t)(length + (*path == '/')));
}

static int setup(void **state)
{
	struct manager *m = calloc(1, sizeof(*m));
	strcpy(m->directory, "/tmp/foretaste-notify-XXXXXX");
	if (!mkdtemp(m->directory))
		return -1;
	snprintf(m->path, sizeof(m->path), "%s/socket", m->directory);
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
	m->notify.fd = m->fd = -1;
	*state = m;
	return 0;
}

static int teardown(void **state)
{
	struct manager *m = *state;
	ft_notify_close(&m->notify);
	if (m->fd >= 0)
		close(m->fd);
	unlink(m->path);
	rmdir(m->directory);
	free(m);
	return 0;
}

static void open_both(struct manager *m)
{
	assert_int_equal(listen_at(m, m->path), 0);
	setenv("NOTIFY_SOCKET", m->path, 1);
	assert_int_equal(ft_notify_open(&m->notify, NULL), 0);
}

/* The next datagram, "" when there is none. */
static const char *heard(struct manager *m)
{
	static char text[4096];
	ssize_t n = recv(m->fd, text, sizeof(text) - 1, 0);
	text[n > 0 ? n : 0] = 0;
	return text;
}

static void without_a_manager_nothing_happens(void **state)
{
	struct manager *m = *state;
	assert_int_equal(ft_notify_open(&m->notify, NULL), 0);
	ft_notify_set(&m->notify, FT_NOTIFY_READY, "running");
	assert_true(ft_notify_serve(&m->notify, 1) == UINT64_MAX);
}

static void each_change_is_told_once(void **state)
{
	struct manager *m = *state;
	open_both(m);
	ft_notify_set(&m->notify, FT_NOTIFY_STARTING, "starting");
	assert_true(ft_notify_serve(&m->notify, 1000) == UINT64_MAX);
	assert_string_equal(heard(m), "STATUS=starting\n");
	ft_notify_serve(&m->notify, 2000);
	assert_string_equal(heard(m), "");
	ft_notify_set(&m->notify, FT_NOTIFY_READY, "running");
	ft_notify_serve(&m->notify, 3000);
	assert_string_equal(heard(m), "READY=1\nSTATUS=running\n");
	ft_notify_set(&m->notify, FT_NOTIFY_RELOADING, "running");
	ft_notify_serve(&m->notify, 7000000);
	assert_string_equal(heard(m), "RELOADING=1\nMONOTONIC_USEC=7000\n");
	ft_notify_set(&m->notify, FT_NOTIFY_READY, "running");
	ft_notify_serve(&m->notify, 8000000);
	assert_string_equal(heard(m), "READY=1\n");
	ft_notify_set(&m->notify, FT_NOTIFY_STOPPING, "stopping");
	ft_notify_serve(&m->notify, 9000000);
	assert_string_equal(heard(m), "STOPPING=1\nSTATUS=stopping\n");
	ft_notify_serve(&m->notify, 9000001);
	assert_string_equal(heard(m), "");
}

static void the_abstract_name_space_is_known(void **state)
{
	struct manager *m = *state;
	char name[108];
	snprintf(name, sizeof(name), "@%s", m->directory);
	assert_int_equal(listen_at(m, name), 0);
	setenv("NOTIFY_SOCKET", name, 1);
	assert_int_equal(ft_notify_open(&m->notify, NULL), 0);
	ft_notify_set(&m->notify, FT_NOTIFY_READY, "");
	ft_notify_serve(&m->notify, 1);
	assert_string_equal(heard(m), "READY=1\n");
}

static void a_sign_of_life_comes_at_half_the_time_allowed(void **state)
{
	struct manager *m = *state;
	setenv("WATCHDOG_USEC", "30000000", 1);
	open_both(m);
	assert_true(ft_notify_serve(&m->notify, 100 * SECOND) == 115 * SECOND);
	assert_string_equal(heard(m), "WATCHDOG=1\n");
	assert_true(ft_notify_serve(&m->notify, 115 * SECOND - 1) == 115 * SECOND);
	assert_string_equal(heard(m), "");
	assert_true(ft_notify_serve(&m->notify, 116 * SECOND) == 131 * SECOND);
	assert_string_equal(heard(m), "WATCHDOG=1\n");
}

static void a_watchdog_of_another_process_is_not_ours(void **state)
{
	struct manager *m = *state;
	setenv("WATCHDOG_USEC", "30000000", 1);
	setenv("WATCHDOG_PID", "1", 1);
	open_both(m);
	assert_true(ft_notify_serve(&m->notify, 100 * SECOND) == UINT64_MAX);
	assert_string_equal(heard(m), "");
}

static void a_status_is_one_line(void **state)
{
	struct manager *m = *state;
	char longer[2 * FT_NOTIFY_STATUS];
	open_both(m);
	ft_notify_set(&m->notify, FT_NOTIFY_STARTING, "guest\nREADY=1\n");
	ft_notify_serve(&m->notify, 1);
	assert_string_equal(heard(m), "STATUS=guest READY=1 \n");
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = 0;
	ft_notify_set(&m->notify, FT_NOTIFY_STOPPING, longer);
	ft_notify_serve(&m->notify, 2);
	const char *text = heard(m);
	assert_int_equal(strlen(text), strlen("STOPPING=1\nSTATUS=\n") + FT_NOTIFY_STATUS - 1);
	assert_int_equal(text[strlen(text) - 1], '\n');
}

static void what_a_full_socket_refused_is_told_later(void **state)
{
	struct manager *m = *state;
	open_both(m);
	int filler = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	size_t fill = 0;
	while (sendto(filler, "X", 1, 0, (struct sockaddr *)&m->notify.address, m->notify.address_length) ==
	       1)
		fill++;
	close(filler);
	assert_true(fill > 0);
	ft_notify_set(&m->notify, FT_NOTIFY_READY, "running");
	uint64_t again = ft_notify_serve(&m->notify, 5 * SECOND);
	assert_true(again > 5 * SECOND && again < 6 * SECOND);
	while (fill--)
		assert_string_equal(heard(m), "X");
	assert_string_equal(heard(m), "");
	assert_true(ft_notify_serve(&m->notify, again) == UINT64_MAX);
	assert_string_equal(heard(m), "READY=1\nSTATUS=running\n");
}

static void nonsense_is_refused_with_a_sentence(void **state)
{
	struct manager *m = *state;
	static const char *const sockets[] = {"", "@", "relative", "vsock:2:1"};
	char longer[256];
	for (size_t i = 0; i < sizeof(sockets) / sizeof(*sockets); i++) {
		struct ft_error err = {0};
		setenv("NOTIFY_SOCKET", sockets[i], 1);
		assert_int_equal(ft_notify_open(&m->notify, &err), -EINVAL);
		assert_non_null(strstr(err.text, "NOTIFY_SOCKET"));
		assert_int_equal(m->notify.fd, -1);
	}
	memset(longer, '/', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = 0;
	setenv("NOTIFY_SOCKET", longer, 1);
	assert_int_equal(ft_notify_open(&m->notify, NULL), -EINVAL);
	static const char *const times[] = {"", "0", "-1", "1", "12x", "99999999999999999999", " 5"};
	setenv("NOTIFY_SOCKET", m->path, 1);
	for (size_t i = 0; i < sizeof(times) / sizeof(*times); i++) {
		struct ft_error err = {0};
		setenv("WATCHDOG_USEC", times[i], 1);
		assert_int_equal(ft_notify_open(&m->notify, &err), -EINVAL);
		assert_non_null(strstr(err.text, "WATCHDOG_USEC"));
		assert_int_equal(m->notify.fd, -1);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(without_a_manager_nothing_happens),
	    TEST(each_change_is_told_once),
	    TEST(the_abstract_name_space_is_known),
	    TEST(a_sign_of_life_comes_at_half_the_time_allowed),
	    TEST(a_watchdog_of_another_process_is_not_ours),
	    TEST(a_status_is_one_line),
	    TEST(what_a_full_socket_refused_is_told_later),
	    TEST(nonsense_is_refused_with_a_sentence),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
