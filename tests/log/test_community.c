/* Community IDs of all packets of the reference captures, against the reference list. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <arpa/inet.h>
#include <jansson.h>
#include <netinet/in.h>
#include <pcap/pcap.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "log/community.h"

static const char *const captures[] = {"tcp", "udp", "icmp", "icmp6", "ipv6", "sctp"};

static uint16_t read16(const u_char *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

/* Fills flow from an Ethernet frame. False when it is no IP or has no ports to look at. */
static bool read_frame(const u_char *at, size_t length, struct ft_community_flow *flow)
{
	memset(flow, 0, sizeof(*flow));
	if (length < 14 + 20)
		return false;
	uint16_t type = read16(at + 12);
	at += 14;
	length -= 14;
	size_t header;
	if (type == 0x0800) {
		header = (size_t)(at[0] & 15) * 4;
		flow->family = AF_INET;
		flow->protocol = at[9];
		memcpy(flow->source, at + 12, 4);
		memcpy(flow->target, at + 16, 4);
	} else if (type == 0x86dd && length >= 40) {
		header = 40;
		flow->family = AF_INET6;
		flow->protocol = at[6];
		memcpy(flow->source, at + 8, 16);
		memcpy(flow->target, at + 24, 16);
	} else {
		return false;
	}
	if (length < header + 4)
		return false;
	at += header;
	if (flow->protocol == IPPROTO_ICMP || flow->protocol == IPPROTO_ICMPV6) {
		flow->source_port = at[0];
		flow->target_port = at[1];
	} else {
		flow->source_port = read16(at);
		flow->target_port = read16(at + 2);
	}
	return true;
}

/* Is there an entry of the list for this packet, and does it have this text? ICMP entries name what the spec makes of
 * type and code, so there only addresses, type and result are compared. */
static void assert_listed(const json_t *list, const struct ft_community_flow *flow, const char *text)
{
	char source[INET6_ADDRSTRLEN], target[INET6_ADDRSTRLEN];
	inet_ntop(flow->family, flow->source, source, sizeof(source));
	inet_ntop(flow->family, flow->target, target, sizeof(target));
	bool icmp = flow->protocol == IPPROTO_ICMP || flow->protocol == IPPROTO_ICMPV6;
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *e = json_array_get(list, i);
		if (json_integer_value(json_object_get(e, "proto")) == flow->protocol &&
		    !strcmp(json_string_value(json_object_get(e, "saddr")), source) &&
		    !strcmp(json_string_value(json_object_get(e, "daddr")), target) &&
		    json_integer_value(json_object_get(e, "sport")) == flow->source_port &&
		    (icmp || json_integer_value(json_object_get(e, "dport")) == flow->target_port)) {
			assert_string_equal(text, json_string_value(json_object_get(e, "communityid")));
			return;
		}
	}
	fail_msg("protocol %u from %s:%u to %s:%u is not in the reference list", flow->protocol, source,
		 flow->source_port, target, flow->target_port);
}

static void reference_captures(void **state)
{
	const char *folder = *state;
	char path[512], why[PCAP_ERRBUF_SIZE];
	snprintf(path, sizeof(path), "%s/baseline_deflt.json", folder);
	json_t *list = json_load_file(path, 0, NULL);
	assert_true(json_is_array(list));
	unsigned compared = 0;
	for (size_t i = 0; i < sizeof(captures) / sizeof(*captures); i++) {
		snprintf(path, sizeof(path), "%s/%s.pcap", folder, captures[i]);
		pcap_t *pcap = pcap_open_offline(path, why);
		if (!pcap)
			fail_msg("%s", why);
		struct pcap_pkthdr *header;
		const u_char *data;
		unsigned here = 0;
		while (pcap_next_ex(pcap, &header, &data) == 1) {
			struct ft_community_flow flow;
			char text[FT_COMMUNITY_TEXT];
			if (!read_frame(data, header->caplen, &flow))
				continue;
			ft_community_id(&flow, 0, text);
			assert_listed(list, &flow, text);
			here++;
		}
		pcap_close(pcap);
		assert_true(here > 0);
		compared += here;
	}
	printf("compared %u packets\n", compared);
	json_decref(list);
}

/* Values of the reference list, for where the captures are not. */
static void both_directions_have_one_name(void **state)
{
	static const struct {
		int family;
		uint8_t protocol;
		const char *source, *target;
		uint16_t sport, dport;
		const char *text;
	} known[] = {
	    {AF_INET, 6, "128.232.110.120", "66.35.250.204", 34855, 80, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="},
	    {AF_INET, 6, "66.35.250.204", "128.232.110.120", 80, 34855, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="},
	    {AF_INET, 132, "192.168.170.8", "192.168.170.56", 7, 7, "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs="},
	    {AF_INET, 1, "192.168.0.89", "192.168.0.1", 8, 0, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="},
	    {AF_INET, 1, "192.168.0.1", "192.168.0.89", 0, 0, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="},
	    {AF_INET, 1, "10.0.0.1", "10.0.0.2", 11, 0, "1:YHxtAirCG//0OzkcVAukqKQN9xM="},
	    {AF_INET6, 58, "fe80::200:86ff:fe05:80da", "fe80::260:97ff:fe07:69ea", 135, 0,
	     "1:dGHyGvjMfljg6Bppwm3bg0LO8TY="},
	    {AF_INET6, 6, "2001:470:e5bf:dead:4957:2174:e82c:4887", "2607:f8b0:400c:c03::1a", 63943, 25,
	     "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4="},
	};
	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
		struct ft_community_flow flow = {.family = known[i].family,
						 .protocol = known[i].protocol,
						 .source_port = known[i].sport,
						 .target_port = known[i].dport};
		char text[FT_COMMUNITY_TEXT];
		assert_int_equal(inet_pton(flow.family, known[i].source, flow.source), 1);
		assert_int_equal(inet_pton(flow.family, known[i].target, flow.target), 1);
		ft_community_id(&flow, 0, text);
		assert_string_equal(text, known[i].text);
		/* Another seed, another name. */
		ft_community_id(&flow, 1, text);
		assert_string_not_equal(text, known[i].text);
	}
}

/* Arguments: nothing, or the folder of the reference captures. */
int main(int argc, char **argv)
{
	if (argc < 2) {
		const struct CMUnitTest tests[] = {cmocka_unit_test(both_directions_have_one_name)};
		return cmocka_run_group_tests(tests, NULL, NULL);
	}
	if (access(argv[1], R_OK)) {
		printf("SKIP: the reference captures are not there (%s)\n", argv[1]);
		return 77;
	}
	const struct CMUnitTest tests[] = {cmocka_unit_test_prestate(reference_captures, argv[1])};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
