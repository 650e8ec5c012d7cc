/* Which engine a guest gets, on whatever machine this is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "gateway/engine.h"
#include "vmm/engine/kvm/host.h"

static int choose_with(const char *const *sets, unsigned count, struct ft_engine_choice *choice, struct ft_error *err)
{
	struct ft_config config;
	*err = (struct ft_error){0};
	if (ft_config_load(&config, SOURCE "/config/quickstart.yaml", sets, count, err))
		fail_msg("%s", err->text);
	int error = ft_engine_choose(&config, "web", choice, err);
	ft_config_free(&config);
	return error;
}

static int choose(const char *first, const char *second, struct ft_engine_choice *choice, struct ft_error *err)
{
	const char *sets[] = {first, second};
	return choose_with(sets, second ? 2 : 1, choice, err);
}

static void drop(struct ft_engine_choice *choice)
{
	assert_int_equal(choice->kvm, choice->fd >= 0);
	if (choice->fd >= 0)
		close(choice->fd);
}

static void what_is_asked_for_is_chosen(void **state)
{
	struct ft_engine_choice choice;
	struct ft_error err;
	assert_int_equal(choose("guests.web.engine=soft", NULL, &choice, &err), 0);
	assert_false(choice.kvm);
	assert_string_equal(choice.why, "as it is configured");
	drop(&choice);
}

static void what_counts_instructions_leads_to_soft(void **state)
{
	struct ft_engine_choice choice;
	struct ft_error err;
	assert_int_equal(choose("guests.web.engine=auto", "guests.web.journal=on", &choice, &err), 0);
	assert_false(choice.kvm);
	assert_string_equal(choice.why, "its journal counts instructions");
	drop(&choice);
	assert_int_equal(choose("guests.web.engine=auto", "guests.web.clock=free", &choice, &err), 0);
	assert_false(choice.kvm);
	assert_string_equal(choice.why, "the free clock counts instructions");
	drop(&choice);
}

/* auto always finds an engine; where it is soft, kvm is refused for the same reason, unless it is only slow. */
static void the_host_decides_and_says_why(void **state)
{
	struct ft_engine_choice automatic, kvm;
	struct ft_error err;
	assert_int_equal(choose("guests.web.engine=auto", NULL, &automatic, &err), 0);
	assert_int_equal(err.code, 0);
	print_message("auto is %s: %s\n", automatic.kvm ? "kvm" : "soft", automatic.why);
	int error = choose("guests.web.engine=kvm", NULL, &kvm, &err);
	if (access("/dev/kvm", F_OK)) {
		assert_string_equal(automatic.why, "/dev/kvm: this host has none");
		assert_string_equal(err.text, "guest web cannot run on engine kvm: /dev/kvm: this host has none");
		assert_int_equal(error, -2);
	} else if (!error) {
		assert_non_null(strstr(kvm.why, "million instructions a second"));
		assert_int_equal(strstr(automatic.why, "it is emulated") == NULL, automatic.kvm);
	} else {
		assert_false(automatic.kvm);
		assert_non_null(strstr(err.text, automatic.why));
	}
	drop(&automatic);
	drop(&kvm);
}

/* Where there is no kvm for a guest of several processors, auto does not make it one of one. */
static void several_processors_are_not_soft(void **state)
{
	static const char *const sets[] = {"guests.web.engine=auto", "guests.web.vcpus=2", "guests.web.clone.engine=kvm"};
	struct ft_engine_choice automatic, single;
	struct ft_error err;
	assert_int_equal(choose("guests.web.engine=auto", NULL, &single, &err), 0);
	int error = choose_with(sets, 3, &automatic, &err);
	assert_int_equal(error == 0, single.kvm);
	if (error)
		assert_non_null(strstr(err.text, single.why));
	if (error)
		assert_non_null(strstr(err.text, "several processors, and engine soft has one"));
	else
		assert_true(automatic.kvm);
	drop(&single);
	drop(&automatic);
}

/* A descriptor that is no KVM's: named, not believed. */
static void what_is_no_kvm_is_none(void **state)
{
	struct ft_error err = {0};
	struct ft_model model;
	double mips;
	uint32_t khz;
	assert_int_not_equal(ft_kvm_host_check(0, &err), 0);
	assert_int_equal(strncmp(err.text, "kvm: ", 5), 0);
	err.code = 0;
	assert_int_not_equal(ft_kvm_host_speed(0, &mips, &khz, &err), 0);
	assert_int_equal(strncmp(err.text, "kvm: KVM_CREATE_VM", 18), 0);
	err.code = 0;
	assert_int_not_equal(ft_kvm_host_model(0, &model, &err), 0);
	assert_int_equal(strncmp(err.text, "kvm: KVM_GET_SUPPORTED_CPUID", 28), 0);
}

/* ---- What `foretaste check` and the log say ------------------------------------------------------------------------------ */

#define PRICE                                                                                                                        \
	"guest web has this host's own processor (portable: false): it cannot be saved as a snapshot, nor go on on another host or engine; " \
	"its clones show their network, disk and console alone, no system calls; and no seeds are kept\n"

static void load(struct ft_config *config, const char *const *sets, unsigned count)
{
	struct ft_error err = {0};
	if (ft_config_load(config, SOURCE "/config/quickstart.yaml", sets, count, &err))
		fail_msg("%s", err.text);
}

/* *said: the caller's to free. */
static void check_with(const char *const *sets, unsigned count, char **said)
{
	struct ft_config config;
	size_t length;
	FILE *file = open_memstream(said, &length);
	load(&config, sets, count);
	ft_engine_print(&config, file);
	fclose(file);
	ft_config_free(&config);
}

/* What it says on stderr when a guest starts. */
static char *start_with(const char *const *sets, unsigned count)
{
	struct ft_config config;
	struct ft_error err = {0};
	load(&config, sets, count);
	FILE *file = tmpfile();
	assert_non_null(file);
	int own = dup(2), kvm;
	json_t *part = json_pack("{s:{}}", "clone");
	fflush(stderr);
	dup2(fileno(file), 2);
	ft_engine_start(&config, "web", part, &kvm, &err);
	fflush(stderr);
	dup2(own, 2);
	close(own);
	if (kvm >= 0)
		close(kvm);
	json_decref(part);
	ft_config_free(&config);
	char *said = calloc(1, 4096);
	rewind(file);
	assert_true(fread(said, 1, 4095, file) < 4095);
	fclose(file);
	return said;
}

static void a_guest_on_soft_is_told_of(void **state)
{
	static const char *const sets[] = {"guests.web.engine=soft", "guests.web.start=snapshot"};
	char *said;
	check_with(sets, 1, &said);
	assert_string_equal(said,
			    "# guest web runs on engine soft: as it is configured\n"
			    "# guest web has a processor of GenuineIntel (CPUID signature 00030661), whose TSC counts 1000.000 MHz; it does not speculate, "
			    "so that the guest's kernel does not protect itself from its own programs\n"
			    "# guest web is portable: it can be saved as a snapshot, and goes on on engine soft anywhere, and on kvm where the processor can "
			    "scale the TSC, unprotected from its own programs; for that it has no instructions beyond SSE4.2 (no AVX, no AES)\n");
	free(said);
	check_with(sets, 2, &said);
	assert_non_null(strstr(said, "(CPUID signature 00030661) where it boots, and from a snapshot the one it was saved with, whose TSC"));
	free(said);
}

/* Here, if there is a kvm: tests/kvm/check looks at each word. */
static void a_guest_on_kvm_is_told_of(void **state)
{
	static const char *const sets[] = {"guests.web.engine=kvm"};
	struct ft_engine_choice choice;
	struct ft_error err;
	int error = choose(sets[0], NULL, &choice, &err);
	char *said, line[sizeof(err.text) + 4];
	check_with(sets, 1, &said);
	snprintf(line, sizeof(line), "# %s\n", err.text);
	if (error) /* why not, and nothing about what it would be */
		assert_string_equal(said, line);
	else
		assert_true(strstr(said, "# guest web has a processor of ") && strstr(said, "# guest web is portable: ") && choice.tsc_khz);
	free(said);
	drop(&choice);
}

/* Whatever the host has. */
static void what_is_not_portable_has_its_price(void **state)
{
	static const char *const sets[] = {"guests.web.engine=kvm", "guests.web.clone.engine=kvm", "guests.web.portable=false"};
	struct ft_engine_choice choice;
	struct ft_error err;
	bool kvm = !choose(sets[0], NULL, &choice, &err);
	drop(&choice);
	char *said;
	check_with(sets, 3, &said);
	const char *at = strstr(said, "# " PRICE);
	assert_non_null(at);
	assert_null(strstr(at + 1, "# guest web"));
	assert_null(strstr(said, "is portable"));
	free(said);
	said = start_with(sets, 3);
	assert_string_equal(said, kvm ? "foretasted: info: " PRICE : "");
	free(said);
	/* Nothing of it where the guest is portable, which it is unless somebody says otherwise. */
	check_with(sets, 2, &said);
	assert_null(strstr(said, "portable: false"));
	free(said);
	said = start_with(sets, 2);
	assert_string_equal(said, "");
	free(said);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_is_asked_for_is_chosen),
	    cmocka_unit_test(what_counts_instructions_leads_to_soft),
	    cmocka_unit_test(the_host_decides_and_says_why),
	    cmocka_unit_test(several_processors_are_not_soft),
	    cmocka_unit_test(what_is_no_kvm_is_none),
	    cmocka_unit_test(a_guest_on_soft_is_told_of),
	    cmocka_unit_test(a_guest_on_kvm_is_told_of),
	    cmocka_unit_test(what_is_not_portable_has_its_price),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
