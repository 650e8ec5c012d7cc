/* A guest's place taken by a few lines of code: starts foretaste-dataplane as the supervisor would, holds the
 *vmm's side of its link, and answers ARP, ICMP echo and UDP echo out of the ring. While it does, it runs a
 *command (ping, a script); then it prints the dataplane's counters as one line of JSON and ends with the
 *command's status.
 *
 *	echo_peer DATAPLANE CONFIG.json COMMAND [ARGUMENT...]
 *	echo_peer --answers N DATAPLANE CONFIG.json     until N answers went out (ports that are files)
 *
 * `--garbage` before DATAPLANE: after the command, writes garbage into the transmit ring, and runs the
 *command again, which has to fail; then gives the dataplane a fresh link and runs it a third time. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/channel.h"
#include "base/link.h"
#include "dataplane/frame.h"

#define NOBODY 64321

struct peer {
	pid_t dataplane;
	int channel, records;
	struct ft_link link;
	uint8_t mac[6];
	uint32_t address;
	long answers;
};

static void die(const char *what, const char *why)
{
	fprintf(stderr, "echo_peer: %s: %s\n", what, why);
	exit(2);
}

static void start_dataplane(struct peer *peer, const char *program, const char *config_file)
{
	int pair[2], records[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, records))
		die("socketpair", strerror(errno));
	peer->dataplane = fork();
	if (!peer->dataplane) {
		dup2(pair[1], FT_CHANNEL_FD);
		fcntl(FT_CHANNEL_FD, F_SETFD, 0);
		execl(program, program, (char *)NULL);
		_exit(127);
	}
	close(pair[1]);
	peer->channel = pair[0];
	peer->records = records[0];
	json_t *config = json_pack("{s:s, s:i, s:i}", "op", "config", "uid", NOBODY, "gid", NOBODY);
	json_error_t why;
	json_t *part = json_load_file(config_file, 0, &why);
	if (!part)
		die("configuration", why.text);
	const json_t *guest = json_object_get(json_object_get(part, "guests"), "echo");
	const char *mac = json_string_value(json_object_get(guest, "mac"));
	const char *address = json_string_value(json_object_get(guest, "address"));
	if (!mac || !address || inet_pton(AF_INET, address, &peer->address) != 1 ||
	    sscanf(mac, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &peer->mac[0], &peer->mac[1], &peer->mac[2],
		   &peer->mac[3], &peer->mac[4], &peer->mac[5]) != 6)
		die("configuration", "guest echo has no mac or address");
	json_object_set_new(config, "config", part);
	int error = ft_channel_send(peer->channel, config, &records[1], 1);
	if (error)
		die("config", strerror(-error));
	close(records[1]);
	json_decref(config);
}

/* Waits for a message with this op; prints what was said and logged on the way. New reference. */
static json_t *expect(struct peer *peer, const char *op)
{
	for (;;) {
		json_t *message;
		int fds[FT_CHANNEL_FDS], count;
		int error = ft_channel_receive(peer->channel, &message, fds, &count);
		if (error)
			die(op, "the dataplane ended");
		const char *got = json_string_value(json_object_get(message, "op"));
		char *text = json_dumps(message, JSON_COMPACT);
		if (!got || strcmp(got, "answer"))
			fprintf(stderr, "dataplane: %s\n", text);
		free(text);
		if (got && !strcmp(got, op))
			return message;
		if (got && !strcmp(got, "failed"))
			exit((int)json_integer_value(json_object_get(message, "code")));
		json_decref(message);
	}
}

static void give_link(struct peer *peer)
{
	int ours[FT_LINK_FDS], theirs[FT_LINK_FDS];
	struct ft_error err = {0};
	if (ft_link_create(theirs, ours, &err) || ft_link_open(&peer->link, FT_LINK_VMM, ours, &err))
		die("link", err.text);
	json_t *message = json_pack("{s:s, s:s}", "op", "link", "guest", "echo");
	int error = ft_channel_send(peer->channel, message, theirs, FT_LINK_FDS);
	if (error)
		die("link", strerror(-error));
	json_decref(message);
	for (int i = 0; i < FT_LINK_FDS; i++)
		close(theirs[i]);
}

static void put(struct peer *peer, const void *frame, size_t length)
{
	struct iovec part = {.iov_base = (void *)(uintptr_t)frame, .iov_len = length};
	peer->answers += !ft_ring_put(&peer->link.tx, FT_LINK_FRAME, &part, 1);
}

static void answer_arp(struct peer *peer, uint8_t *data, size_t length)
{
	uint8_t *arp = data + FT_FRAME_HEADER;
	if (ft_load16(arp + 6) != 1 || memcmp(arp + 24, &peer->address, 4))
		return;
	ft_store16(arp + 6, 2);
	memcpy(arp + 18, arp + 8, 10); /* target: who asked */
	memcpy(arp + 8, peer->mac, 6);
	memcpy(arp + 14, &peer->address, 4);
	memcpy(data, data + 6, 6);
	memcpy(data + 6, peer->mac, 6);
	put(peer, data, length);
}

static void answer(struct peer *peer, uint8_t *data, size_t length)
{
	struct ft_frame frame;
	enum ft_reason why;
	if (ft_frame_parse(&frame, data, length, &why))
		return;
	if (frame.kind == FT_FRAME_ARP) {
		answer_arp(peer, data, length);
		return;
	}
	struct ft_address own = ft_address_v4(&peer->address);
	if (frame.kind != FT_FRAME_IPV4 || !ft_address_same(&frame.destination, &own) || frame.fragment)
		return;
	bool ping = frame.protocol == IPPROTO_ICMP && frame.payload_length >= 8 && data[frame.l4] == 8;
	bool udp = frame.protocol == IPPROTO_UDP;
	/* A frame whose checksum is wrong would be dropped by a real guest, so it gets no answer here. */
	if ((!ping && !udp) || ft_frame_checksum(&frame) != FT_CHECKSUM_GOOD)
		return;
	uint8_t swap[4];
	memcpy(swap, data + frame.ip + 12, 4);
	memcpy(data + frame.ip + 12, data + frame.ip + 16, 4);
	memcpy(data + frame.ip + 16, swap, 4);
	memcpy(data, data + 6, 6);
	memcpy(data + 6, peer->mac, 6);
	if (ping) {
		/* Type 8 becomes 0: the checksum of RFC 1624 grows by the same amount. */
		data[frame.l4] = 0;
		uint32_t sum = ft_load16(data + frame.l4 + 2) + 0x0800u;
		ft_store16(data + frame.l4 + 2, (uint16_t)(sum + (sum >> 16)));
	} else {
		memcpy(swap, data + frame.l4, 2);
		memcpy(data + frame.l4, data + frame.l4 + 2, 2);
		memcpy(data + frame.l4 + 2, swap, 2);
		ft_frame_seal(&frame, data);
	}
	put(peer, data, length);
}

static void serve(struct peer *peer)
{
	static uint8_t data[FT_RING_RECORD_MAX];
	uint32_t kind;
	long length;
	while ((length = ft_ring_get(&peer->link.rx, &kind, data, sizeof(data))) >= 0)
		if (kind == FT_LINK_FRAME)
			answer(peer, data, (size_t)length);
	ft_ring_kick(&peer->link.tx);
}

/* Answers what is there, then sleeps until more comes, for a moment at most. */
static void work(struct peer *peer)
{
	if (waitpid(peer->dataplane, NULL, WNOHANG) > 0)
		die("run", "the dataplane ended");
	serve(peer);
	if (!ft_ring_sleep(&peer->link.rx))
		return;
	struct pollfd wake = {peer->link.wake_own, POLLIN, 0};
	poll(&wake, 1, 20);
	ft_ring_awake(&peer->link.rx);
	uint64_t count;
	ssize_t n = read(peer->link.wake_own, &count, sizeof(count));
	(void)n;
}

/* Runs the command, answering frames until it ends. Its exit status. */
static int run(struct peer *peer, char **command)
{
	pid_t pid = fork();
	if (!pid) {
		dup2(2, 1); /* our standard output is the counters alone */
		execvp(command[0], command);
		_exit(127);
	}
	int status;
	while (waitpid(pid, &status, WNOHANG) == 0)
		work(peer);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static void query(struct peer *peer, const char *what)
{
	json_t *message = json_pack("{s:s, s:i, s:s}", "op", "query", "id", 1, "what", what);
	ft_channel_send(peer->channel, message, NULL, 0);
	json_decref(message);
}

static void write_garbage(struct peer *peer)
{
	unsigned seed = 5;
	for (size_t i = 0; i < 65536; i++)
		peer->link.tx.shared->data[i] = (uint8_t)rand_r(&seed);
	__atomic_store_n(&peer->link.tx.shared->producer.index, 0xdeadbeefdeadbee8ull, __ATOMIC_RELEASE);
	uint64_t one = 1;
	ssize_t n = write(peer->link.wake_peer, &one, sizeof(one));
	(void)n;
}

/* The dataplane has passed that many frames of ours on. */
static void wait_until_sent(struct peer *peer, long frames)
{
	json_int_t sent = 0;
	while (sent < frames) {
		query(peer, "counters");
		json_t *answered = expect(peer, "answer");
		json_t *reasons = json_object_get(json_object_get(answered, "result"), "reasons");
		sent = json_integer_value(json_object_get(reasons, "pass.outbound"));
		json_decref(answered);
	}
}

static void expect_distrust(struct peer *peer)
{
	for (int tries = 0; tries < 10000; tries++) {
		query(peer, "status");
		json_t *answered = expect(peer, "answer");
		const json_t *guests = json_object_get(json_object_get(answered, "result"), "guests");
		bool up = json_is_true(json_object_get(json_object_get(guests, "echo"), "up"));
		json_decref(answered);
		if (!up)
			return;
	}
	die("garbage", "the dataplane still trusts the link");
}

static int stop(struct peer *peer)
{
	query(peer, "counters");
	json_t *answered = expect(peer, "answer");
	json_dumpf(json_object_get(answered, "result"), stdout, JSON_COMPACT);
	printf("\n");
	json_decref(answered);
	json_t *message = json_pack("{s:s}", "op", "stop");
	ft_channel_send(peer->channel, message, NULL, 0);
	json_decref(message);
	int ended;
	if (waitpid(peer->dataplane, &ended, 0) != peer->dataplane || !WIFEXITED(ended) ||
	    WEXITSTATUS(ended)) {
		fprintf(stderr, "echo_peer: the dataplane ended with wait status %#x\n", (unsigned)ended);
		return 3;
	}
	ft_link_close(&peer->link);
	return 0;
}

int main(int argc, char **argv)
{
	bool garbage = argc > 1 && !strcmp(argv[1], "--garbage");
	long answers = argc > 2 && !strcmp(argv[1], "--answers") ? atol(argv[2]) : 0;
	int skip = answers ? 2 : garbage;
	argv += skip;
	if (argc - skip < (answers ? 3 : 4))
		die("usage", "echo_peer [--garbage | --answers N] DATAPLANE CONFIG.json [COMMAND...]");
	struct peer peer = {0};
	start_dataplane(&peer, argv[1], argv[2]);
	json_decref(expect(&peer, "ready"));
	give_link(&peer);
	if (answers) {
		while (peer.answers < answers)
			work(&peer);
		wait_until_sent(&peer, answers);
		return stop(&peer);
	}
	int status = run(&peer, argv + 3);
	if (garbage && !status) {
		write_garbage(&peer);
		expect_distrust(&peer);
		if (!run(&peer, argv + 3))
			die("garbage", "frames still pass");
		ft_link_close(&peer.link);
		give_link(&peer);
		status = run(&peer, argv + 3);
	}
	int ended = stop(&peer);
	return ended ? ended : status;
}
