/* The configuration message: what is accepted, and that everything else is refused with a sentence. */
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <cmocka.h>

#include "guest/settings.h"

static struct ft_settings settings;

static json_t *usual(void)
{
	return json_pack("{s:s, s:i, s:i, s:{s:s, s:I, s:i, s:s, s:s, s:s, s:s, s:s, s:f, s:b, s:b, s:{s:i, "
			 "s:{s:s, s:s, s:i}}}}",
			 "op", "config", "uid", 64001, "gid", 64001, "config", "guest", "web", "memory",
			 (json_int_t)256 << 20, "vcpus", 1, "engine", "soft", "clock", "live", "cmdline",
			 "console=ttyS0", "mac", "02:46:54:00:00:15", "address", "10.0.2.15", "ns_per_insn",
			 0.5, "has_initrd", 1, "has_disk", 0, "clone", "max", 7, "link", "dns", "192.0.2.53",
			 "tcp_sink", "accept", "delay", 1000);
}

static int read_it(json_t *message, struct ft_error *err)
{
	memset(err, 0, sizeof(*err));
	int error = ft_settings_read(&settings, message, err);
	json_decref(message);
	return error;
}

static void a_whole_configuration_is_understood(void **state)
{
	struct ft_error err;
	assert_int_equal(read_it(usual(), &err), 0);
	assert_string_equal(settings.guest, "web");
	assert_string_equal(settings.machine.cmdline, "console=ttyS0");
	assert_int_equal(settings.uid, 64001);
	assert_int_equal(settings.machine.memory, 256u << 20);
	assert_int_equal(settings.machine.clock, FT_CLOCK_LIVE);
	assert_int_equal(settings.machine.ns_per_1024insn, 512);
	assert_memory_equal(settings.machine.mac, "\x02\x46\x54\x00\x00\x15", 6);
	assert_true(settings.has_initrd);
	assert_false(settings.has_disk);
	assert_int_equal(settings.clones, 7);
	assert_int_equal(settings.outside.guest_ip, htonl(0x0a00020f));
	assert_int_equal(settings.outside.dns_address, htonl(0xc0000235));
	assert_int_equal(settings.outside.tcp, FT_SINK_ACCEPT);
	assert_int_equal(settings.outside.delay_ns, 1000);
}

static void refused(const char *key, json_t *value, const char *named)
{
	struct ft_error err;
	json_t *message = usual();
	json_t *config = json_object_get(message, "config");
	if (value)
		json_object_set_new(config, key, value);
	else
		json_object_del(config, key);
	assert_int_not_equal(read_it(message, &err), 0);
	assert_non_null(strstr(err.text, named));
}

static void what_is_wrong_is_named(void **state)
{
	refused("memory", NULL, "memory");
	refused("memory", json_integer(1), "memory");
	refused("memory", json_string("256 MiB"), "memory");
	refused("vcpus", json_integer(2), "vcpus");
	refused("engine", json_string("auto"), "auto"); /* who starts us has chosen */
	refused("clock", json_string("fast"), "fast");
	refused("mac", json_string("02:46:54:00:00"), "mac");
	refused("mac", json_string("02:46:54:00:00:15:16"), "mac");
	refused("mac", NULL, "mac");
	refused("address", json_string("10.0.2"), "address");
	refused("cmdline", NULL, "cmdline");
	refused("guest", json_integer(3), "guest");
	refused("ns_per_insn", json_integer(0), "ns_per_insn");
	refused("ns_per_insn", json_real(0.0009), "ns_per_insn");
	refused("ns_per_insn", json_real(-0.5), "ns_per_insn");
	refused("ns_per_insn", json_real(1000.5), "ns_per_insn");
	refused("verify", json_string("yes"), "verify");
	refused("ns_per_insn", json_string("1"), "ns_per_insn");
	refused("clone", json_pack("{s:i}", "max", 1000), "max");
	refused("clone", json_pack("{s:{s:s}}", "link", "dns", "example"), "dns");
	refused("clone", json_pack("{s:{s:s}}", "link", "tcp_sink", "maybe"), "tcp_sink");
	refused("clone", json_pack("{s:{s:i}}", "link", "delay", -1), "delay");
	refused("clone", json_pack("{s:s}", "engine", "fast"), "fast");
	refused("clone", json_pack("{s:s}", "engine", "kvm"), "kvm"); /* of a guest on soft */
	char longer[4096];
	memset(longer, 'a', sizeof(longer));
	longer[sizeof(longer) - 1] = 0;
	refused("cmdline", json_string(longer), "cmdline");
}

static json_t *on_kvm(const char *clones)
{
	json_t *message = usual(), *config = json_object_get(message, "config");
	json_object_set_new(config, "engine", json_string("kvm"));
	json_object_set_new(json_object_get(config, "clone"), "engine", json_string(clones));
	return message;
}

static void engine_kvm_has_no_instruction_counts(void **state)
{
	struct ft_error err;
	assert_int_equal(read_it(on_kvm("soft"), &err), 0);
	assert_true(settings.kvm && !settings.clone_kvm);
	assert_int_equal(read_it(on_kvm("kvm"), &err), 0);
	assert_true(settings.kvm && settings.clone_kvm);
	assert_int_equal(settings.machine.vcpus, 1);
	json_t *message = on_kvm("soft");
	json_object_set_new(json_object_get(message, "config"), "clock", json_string("free"));
	assert_int_equal(read_it(message, &err), -EINVAL);
	message = on_kvm("soft");
	json_object_set_new(json_object_get(message, "config"), "journal", json_pack("{s:i, s:i}", "run", 1, "number", 1));
	assert_int_equal(read_it(message, &err), -EINVAL);
}

static void several_vcpus_need_engine_kvm_for_all(void **state)
{
	static const struct {
		const char *clones;
		int vcpus, error;
	} cases[] = {{"kvm", 2, 0}, {"kvm", 16, 0}, {"kvm", 17, -EINVAL}, {"kvm", 0, -EINVAL}, {"soft", 2, -EINVAL}, {"soft", 1, 0}};
	struct ft_error err;
	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		json_t *message = on_kvm(cases[i].clones);
		json_object_set_new(json_object_get(message, "config"), "vcpus", json_integer(cases[i].vcpus));
		assert_int_equal(read_it(message, &err), cases[i].error);
		if (cases[i].error)
			assert_non_null(strstr(err.text, "vcpus"));
		else
			assert_int_equal(settings.machine.vcpus, cases[i].vcpus);
	}
}

static void the_host_s_own_processor_needs_engine_kvm_for_all(void **state)
{
	struct ft_error err;
	json_t *message = on_kvm("kvm");
	json_object_set_new(json_object_get(message, "config"), "portable", json_string("false"));
	assert_int_equal(read_it(message, &err), 0);
	assert_true(settings.machine.engine_options.native);
	message = on_kvm("kvm");
	json_object_set_new(json_object_get(message, "config"), "portable", json_string("true"));
	assert_int_equal(read_it(message, &err), 0);
	assert_false(settings.machine.engine_options.native);
	message = on_kvm("soft");
	json_object_set_new(json_object_get(message, "config"), "portable", json_string("false"));
	assert_int_equal(read_it(message, &err), -EINVAL);
	assert_non_null(strstr(err.text, "portable"));
	message = on_kvm("kvm");
	json_object_set_new(json_object_get(message, "config"), "portable", json_string("false"));
	json_object_set_new(json_object_get(message, "config"), "snapshot", json_object());
	assert_int_equal(read_it(message, &err), -EINVAL);
	refused("portable", json_string("off"), "portable");
	refused("portable", json_string("false"), "portable"); /* on soft */
}

static void a_message_without_configuration_is_refused(void **state)
{
	struct ft_error err;
	assert_int_not_equal(read_it(json_pack("{s:s}", "op", "config"), &err), 0);
	assert_int_not_equal(read_it(json_pack("{s:s, s:s}", "op", "config", "config", "x"), &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_whole_configuration_is_understood),
	    cmocka_unit_test(what_is_wrong_is_named),
	    cmocka_unit_test(engine_kvm_has_no_instruction_counts),
	    cmocka_unit_test(several_vcpus_need_engine_kvm_for_all),
	    cmocka_unit_test(the_host_s_own_processor_needs_engine_kvm_for_all),
	    cmocka_unit_test(a_message_without_configuration_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
