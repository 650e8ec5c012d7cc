#include "guest/settings.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "vmm/dev/virtio_net.h"

#define DELAY_DEFAULT_NS 200000u
#define DELAY_MAX_NS     10000000000ull

static int text_of(const json_t *config, const char *key, char *to, size_t size, struct ft_error *err)
{
	const char *text = json_string_value(json_object_get(config, key));
	if (!text || strlen(text) >= size)
		return ft_error_set(err, -EINVAL, "configuration: \"%s\" is missing or too long", key);
	memcpy(to, text, strlen(text) + 1);
	return 0;
}

/* An integer that may be absent. */
static int number_of(const json_t *config, const char *key, uint64_t least, uint64_t most, uint64_t *value,
		     struct ft_error *err)
{
	const json_t *json = json_object_get(config, key);
	if (!json)
		return 0;
	if (!json_is_integer(json) || json_integer_value(json) < 0 ||
	    (uint64_t)json_integer_value(json) < least || (uint64_t)json_integer_value(json) > most)
		return ft_error_set(err, -EINVAL, "configuration: \"%s\" is no number from %llu to %llu", key,
				    (unsigned long long)least, (unsigned long long)most);
	*value = (uint64_t)json_integer_value(json);
	return 0;
}

static int read_link(struct ft_settings *s, const json_t *link, struct ft_error *err)
{
	const char *dns = json_string_value(json_object_get(link, "dns"));
	const char *sink = json_string_value(json_object_get(link, "tcp_sink"));
	s->outside.delay_ns = DELAY_DEFAULT_NS;
	s->outside.tcp = FT_SINK_REFUSE;
	if (dns && strcmp(dns, "refuse") && inet_pton(AF_INET, dns, &s->outside.dns_address) != 1)
		return ft_error_set(
		    err, -EINVAL,
		    "configuration: clone.link.dns \"%.40s\" is neither \"refuse\" nor an address", dns);
	if (sink && !strcmp(sink, "accept"))
		s->outside.tcp = FT_SINK_ACCEPT;
	else if (sink && !strcmp(sink, "silent"))
		s->outside.tcp = FT_SINK_SILENT;
	else if (sink && strcmp(sink, "refuse"))
		return ft_error_set(
		    err, -EINVAL,
		    "configuration: clone.link.tcp_sink \"%.40s\" is none of refuse, accept, silent", sink);
	return number_of(link, "delay", 0, DELAY_MAX_NS, &s->outside.delay_ns, err);
}

static int read_engine(struct ft_settings *s, const char *engine, const char *clones, struct ft_error *err)
{
	s->kvm = engine && !strcmp(engine, "kvm");
	s->clone_kvm = clones && !strcmp(clones, "kvm");
	if (engine && !s->kvm && strcmp(engine, "soft"))
		return ft_error_set(err, -EINVAL, "configuration: there is no engine \"%.40s\"", engine);
	if (clones && !s->clone_kvm && strcmp(clones, "soft"))
		return ft_error_set(err, -EINVAL, "configuration: there is no engine \"%.40s\" for clones", clones);
	if (s->clone_kvm && !s->kvm)
		return ft_error_set(err, -EINVAL, "configuration: clones on engine kvm are those of a guest on it");
	return 0;
}

static int read_machine(struct ft_settings *s, const json_t *config, struct ft_error *err)
{
	struct ft_machine_config *m = &s->machine;
	const char *clock = json_string_value(json_object_get(config, "clock"));
	const char *mac = json_string_value(json_object_get(config, "mac"));
	const char *engine = json_string_value(json_object_get(config, "engine"));
	const json_t *speed = json_object_get(config, "ns_per_insn");
	unsigned byte[6];
	uint64_t vcpus = 1, mtu = 0;
	int end = 0;
	if (clock && strcmp(clock, "live") && strcmp(clock, "free"))
		return ft_error_set(err, -EINVAL, "configuration: clock \"%.40s\" is neither live nor free",
				    clock);
	if (read_engine(s, engine, json_string_value(json_object_get(json_object_get(config, "clone"), "engine")), err))
		return err->code;
	if (!mac ||
	    sscanf(mac, "%2x:%2x:%2x:%2x:%2x:%2x%n", byte, byte + 1, byte + 2, byte + 3, byte + 4, byte + 5,
		   &end) != 6 ||
	    mac[end])
		return ft_error_set(err, -EINVAL, "configuration: \"mac\" is no MAC address");
	for (int i = 0; i < 6; i++)
		m->mac[i] = (uint8_t)byte[i];
	if (number_of(config, "vcpus", 1, FT_VCPUS_MOST, &vcpus, err) ||
	    number_of(config, "mtu", 1280, FT_NET_MTU_MAX, &mtu, err) ||
	    number_of(config, "memory", FT_RAM_MIN, FT_RAM_MAX, &m->memory, err))
		return err->code;
	m->vcpus = (unsigned)vcpus;
	if (vcpus > 1 && (!s->kvm || !s->clone_kvm))
		return ft_error_set(err, -EINVAL, "configuration: \"vcpus\" is more than engine soft has, and guest and clones are not both on engine kvm");
	/* What every driver takes without being told is not told: a card like any other. */
	m->mtu = mtu == 1500 ? 0 : (uint16_t)mtu;
	if (!m->memory)
		return ft_error_set(err, -EINVAL, "configuration: \"memory\" is missing");
	/* Below 1/1024 it would come to 0, which means the default. */
	if (json_is_number(speed) && json_number_value(speed) * 1024 >= 1 && json_number_value(speed) <= 1000)
		m->ns_per_1024insn = (uint32_t)(json_number_value(speed) * 1024);
	else if (speed)
		return ft_error_set(err, -EINVAL,
				    "configuration: \"ns_per_insn\" is no number from 1/1024 to 1000");
	const char *portable = json_string_value(json_object_get(config, "portable"));
	if (portable && strcmp(portable, "true") && strcmp(portable, "false"))
		return ft_error_set(err, -EINVAL, "configuration: portable \"%.40s\" is neither true nor false", portable);
	m->engine_options.native = portable && !strcmp(portable, "false");
	if (m->engine_options.native && (!s->kvm || !s->clone_kvm))
		return ft_error_set(err, -EINVAL, "configuration: portable is false, and guest and clones are not both on engine kvm");
	const char *verify = json_string_value(json_object_get(config, "verify"));
	if (verify && strcmp(verify, "off") && strcmp(verify, "on"))
		return ft_error_set(err, -EINVAL, "configuration: verify \"%.40s\" is neither on nor off", verify);
	m->engine_options.verify = verify && !strcmp(verify, "on");
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	m->clock = clock && !strcmp(clock, "free") ? FT_CLOCK_FREE : FT_CLOCK_LIVE;
	m->epoch_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	clock_gettime(CLOCK_MONOTONIC, &now);
	m->epoch_monotonic_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	m->disk_fd = -1;
	m->cmdline = s->cmdline;
	return 0;
}

static int bytes_of(const char *text, uint8_t *to, size_t size)
{
	size_t length = 0;
	const char *end = NULL;
	return !text || sodium_hex2bin(to, size, text, strlen(text), NULL, &length, &end) || length != size || *end ? -EINVAL : 0;
}

void ft_settings_origin(const json_t *message, uint8_t origin[16])
{
	if (bytes_of(json_string_value(json_object_get(message, "origin")), origin, 16))
		memset(origin, 0, 16);
}

int ft_settings_seal(const json_t *seal, struct ft_snapshot_seal *to, struct ft_error *err)
{
	if (!seal)
		return 0;
	if (bytes_of(json_string_value(json_object_get(seal, "salt")), to->salt, sizeof(to->salt)) ||
	    bytes_of(json_string_value(json_object_get(seal, "key")), to->key, sizeof(to->key)))
		return ft_error_set(err, -EINVAL, "configuration: \"seal\" is no salt and key");
	json_t *key = json_object_get(seal, "key");
	sodium_memzero((char *)(uintptr_t)json_string_value(key), json_string_length(key));
	return 1;
}

static int read_journal(struct ft_settings *s, const json_t *journal, struct ft_error *err)
{
	uint64_t run = 0, number = 0;
	s->journal = json_is_object(journal);
	s->journal_holds = json_is_true(json_object_get(journal, "hold"));
	s->journal_refers = json_is_true(json_object_get(journal, "by_reference"));
	s->journal_commits = json_is_true(json_object_get(journal, "commit"));
	if (!s->journal)
		return 0;
	if (number_of(journal, "run", 1, UINT32_MAX, &run, err) || number_of(journal, "number", 1, UINT32_MAX, &number, err) ||
	    number_of(journal, "check_every", 1000, UINT64_MAX / 1000, &s->journal_check_every, err))
		return err->code;
	if (!run || !number)
		return ft_error_set(err, -EINVAL, "configuration: \"journal\" lacks its run or number");
	s->journal_run = (uint32_t)run;
	s->journal_number = (uint32_t)number;
	int seal = ft_settings_seal(json_object_get(journal, "seal"), &s->journal_seal, err);
	s->journal_sealed = seal > 0;
	return seal < 0 ? seal : 0;
}

int ft_settings_read(struct ft_settings *s, const json_t *message, struct ft_error *err)
{
	memset(s, 0, sizeof(*s));
	const json_t *config = json_object_get(message, "config");
	const json_t *clone = json_object_get(config, "clone");
	const char *address = json_string_value(json_object_get(config, "address"));
	const char *address6 = json_string_value(json_object_get(config, "address6"));
	uint64_t uid = 0, gid = 0, clones = 4;
	err->code = 0;
	if (!json_is_object(config))
		return ft_error_set(err, -EINVAL, "configuration: \"config\" is missing");
	if (number_of(message, "uid", 0, UINT32_MAX - 1, &uid, err) ||
	    number_of(message, "gid", 0, UINT32_MAX - 1, &gid, err) ||
	    text_of(config, "guest", s->guest, sizeof(s->guest), err) ||
	    text_of(config, "cmdline", s->cmdline, sizeof(s->cmdline), err) || read_machine(s, config, err) ||
	    number_of(clone, "max", 0, 32, &clones, err) || read_link(s, json_object_get(clone, "link"), err))
		return err->code;
	if (address && inet_pton(AF_INET, address, &s->outside.guest_ip) != 1)
		return ft_error_set(err, -EINVAL, "configuration: \"address\" is no IPv4 address");
	if (address6 && inet_pton(AF_INET6, address6, s->outside.guest_ip6.bytes) != 1)
		return ft_error_set(err, -EINVAL, "configuration: \"address6\" is no IPv6 address");
	s->uid = (uid_t)uid;
	s->gid = (gid_t)gid;
	s->clones = (unsigned)clones;
	s->has_initrd = json_is_true(json_object_get(config, "has_initrd"));
	s->has_disk = json_is_true(json_object_get(config, "has_disk"));
	const json_t *overlay = json_object_get(config, "overlay");
	s->keeps = s->has_disk && json_is_object(overlay);
	if (s->keeps && (number_of(overlay, "quota", 0, 1ull << 44, &s->overlay_quota, err) ||
			 number_of(overlay, "retention", 0, INT64_MAX, &s->overlay_retention_ns, err)))
		return err->code;
	if (read_journal(s, json_object_get(config, "journal"), err))
		return err->code;
	if (s->kvm && (s->journal || s->machine.clock == FT_CLOCK_FREE))
		return ft_error_set(err, -EINVAL, "configuration: journal and the free clock count instructions, which engine kvm does not");
	const json_t *snapshot = json_object_get(config, "snapshot");
	s->restores = json_is_object(snapshot);
	if (s->restores && s->machine.engine_options.native)
		return ft_error_set(err, -EINVAL, "configuration: portable is false, and no such guest starts from a snapshot");
	s->attached = !s->restores || json_is_true(json_object_get(snapshot, "attach"));
	int seal = ft_settings_seal(json_object_get(snapshot, "seal"), &s->seal, err);
	s->sealed = seal > 0;
	if (seal < 0)
		return seal;
	return 0;
}
