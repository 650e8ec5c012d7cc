/* Records when the ledger does not keep up: verdicts wait and come in order, packets are what is lost. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/channel.h"
#include "dataplane/backlog.h"

static int pair[2];
static struct ft_backlog backlog;

static int fresh(void **state)
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
	return ft_backlog_open(&backlog, pair[0]);
}

static int done(void **state)
{
	ft_backlog_close(&backlog);
	close(pair[0]);
	close(pair[1]);
	return 0;
}

static int send_one(const char *op, int number)
{
	char filler[16384];
	memset(filler, 'x', sizeof(filler) - 1);
	filler[sizeof(filler) - 1] = 0;
	json_t *record = json_pack("{s:s, s:i, s:s}", "op", op, "n", number, "filler",
				   strcmp(op, "packets") ? "" : filler);
	int error = ft_backlog_send(&backlog, record);
	json_decref(record);
	return error;
}

/* The number of the next record of that kind, -1 when nothing is there. */
static int receive(const char *op)
{
	json_t *message;
	int fds[FT_CHANNEL_FDS], count, number = -1;
	while (number < 0 && !ft_channel_receive(pair[1], &message, fds, &count)) {
		if (!strcmp(json_string_value(json_object_get(message, "op")), op))
			number = (int)json_integer_value(json_object_get(message, "n"));
		json_decref(message);
	}
	return number;
}

static void fill(void)
{
	while (!send_one("packets", 0))
		;
	assert_int_equal(backlog.lost, 1);
	/* Also for the small ones. */
	while (!ft_backlog_waits(&backlog))
		assert_int_equal(send_one("event", 0), 0);
}

static void verdicts_wait_for_room_and_come_in_order(void **state)
{
	fill();
	for (int i = 0; i < 100; i++)
		assert_int_equal(send_one("hold", i), 0);
	assert_int_equal(send_one("packets", 1), -EAGAIN);
	assert_int_equal(backlog.lost, 2);
	int next = 0;
	for (int rounds = 0; next < 100 && rounds < 1000; rounds++) {
		for (int n; (n = receive("hold")) >= 0; next++)
			assert_int_equal(n, next);
		ft_backlog_flush(&backlog);
	}
	assert_int_equal(next, 100);
	assert_false(ft_backlog_waits(&backlog));
	assert_int_equal(send_one("packets", 1), 0);
}

static void what_comes_later_does_not_overtake(void **state)
{
	fill();
	assert_int_equal(send_one("hold", 1), 0);
	while (receive("nothing of the kind") >= 0)
		;
	assert_int_equal(send_one("hold", 2), 0);
	assert_int_equal(receive("hold"), 1);
	assert_int_equal(receive("hold"), 2);
}

static void what_waits_is_bounded(void **state)
{
	fill();
	unsigned kept = 0;
	while (!send_one("hold", 1) && kept <= FT_BACKLOG_MOST)
		kept++;
	assert_in_range(kept, FT_BACKLOG_MOST - 1, FT_BACKLOG_MOST);
	assert_int_equal(backlog.lost, 2);
}

static void a_ledger_that_is_gone_is_an_error(void **state)
{
	close(pair[1]);
	pair[1] = -1;
	assert_int_equal(send_one("hold", 1), -EPIPE);
	assert_int_equal(backlog.lost, 1);
	assert_false(ft_backlog_waits(&backlog));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, fresh, done)
	const struct CMUnitTest tests[] = {
	    T(verdicts_wait_for_room_and_come_in_order),
	    T(what_comes_later_does_not_overtake),
	    T(what_waits_is_bounded),
	    T(a_ledger_that_is_gone_is_an_error),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
