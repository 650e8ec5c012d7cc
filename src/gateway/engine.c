#include "gateway/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "gateway/supervisor.h"
#include "vmm/engine/kvm/host.h"
#include "vmm/machine.h"

#define DEVICE "/dev/kvm"

static const char *text(const struct ft_config *config, const char *guest, const char *key)
{
	char path[128];
	snprintf(path, sizeof(path), "guests.%s.%s", guest, key);
	const char *value = ft_config_text(config, path);
	return value ? value : "";
}

static long long number(const struct ft_config *config, const char *guest, const char *key)
{
	char path[128];
	snprintf(path, sizeof(path), "guests.%s.%s", guest, key);
	return json_integer_value(ft_config_get(config, path));
}

/* What the guest is to do that engine kvm cannot; NULL: nothing. */
static const char *asks_for_soft(const struct ft_config *config, const char *guest)
{
	if (!strcmp(text(config, guest, "journal"), "on"))
		return "its journal counts instructions";
	if (!strcmp(text(config, guest, "clock"), "free"))
		return "the free clock counts instructions";
	return NULL;
}

/* What it costs that the guest has the host's own processor; NULL: it does not. */
static const char *price(const struct ft_config *config, const char *guest)
{
	return strcmp(text(config, guest, "portable"), "false")
		   ? NULL
		   : "has this host's own processor (portable: false): it cannot be saved as a snapshot, nor go on on another host or engine; its clones "
		     "show their network, disk and console alone, no system calls; and no seeds are kept";
}

static int open_kvm(struct ft_error *err)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		return fd;
	return ft_error_set(err, -errno, "%s: %s", DEVICE,
			    errno == ENOENT   ? "this host has none"
			    : errno == EACCES ? "not permitted to this process"
					      : strerror(errno));
}

/* Measures: 0, and what came out; or why it is not to be used. */
static int try_kvm(int fd, bool slow_too, uint32_t *tsc_khz, char *why, size_t size, struct ft_error *err)
{
	double mips = 0;
	int error = ft_kvm_host_check(fd, err);
	if (!error)
		error = ft_kvm_host_speed(fd, &mips, tsc_khz, err);
	if (error)
		return error;
	bool emulated = mips < FT_KVM_HOST_MIPS_LEAST;
	snprintf(why, size, "its ring 0 runs %.*f million instructions a second%s%s", mips < 10 ? 1 : 0, mips, emulated ? ": it is emulated" : "",
		 emulated && !access("/sys/module/kvm_pvm", F_OK) ? " (kvm_pvm)" : "");
	return emulated && !slow_too ? ft_error_set(err, -ENOTSUP, "%s: %s", DEVICE, why) : 0;
}

int ft_engine_choose(const struct ft_config *config, const char *guest, struct ft_engine_choice *choice, struct ft_error *err)
{
	const char *engine = text(config, guest, "engine"), *soft = asks_for_soft(config, guest);
	bool automatic = !strcmp(engine, "auto");
	struct ft_error own = {0};
	*choice = (struct ft_engine_choice){.fd = -1, .tsc_khz = FT_DEFAULT_TSC_KHZ};
	if (!strcmp(engine, "soft") || (automatic && soft)) {
		snprintf(choice->why, sizeof(choice->why), "%s", automatic ? soft : "as it is configured");
		return 0;
	}
	uint32_t khz = 0;
	int fd = open_kvm(&own), error = fd < 0 ? fd : try_kvm(fd, !automatic, &khz, choice->why, sizeof(choice->why), &own);
	if (!error) {
		choice->kvm = true;
		choice->fd = fd;
		choice->tsc_khz = khz;
		return 0;
	}
	if (fd >= 0)
		close(fd);
	long long vcpus = number(config, guest, "vcpus");
	if (!automatic || vcpus > 1)
		return ft_error_set(err, error, "guest %s cannot run on engine kvm: %s%s", guest, own.text,
				    automatic ? ". It has several processors, and engine soft has one" : "");
	snprintf(choice->why, sizeof(choice->why), "%s", own.text);
	return 0;
}

int ft_engine_start(const struct ft_config *config, const char *guest, json_t *part, int *fd, struct ft_error *err)
{
	struct ft_engine_choice choice;
	int error = ft_engine_choose(config, guest, &choice, err);
	*fd = choice.fd;
	if (error)
		return error;
	json_object_set_new(part, "engine", json_string(choice.kvm ? "kvm" : "soft"));
	json_object_set_new(json_object_get(part, "clone"), "engine", json_string(choice.kvm ? text(config, guest, "clone.engine") : "soft"));
	if (price(config, guest))
		ft_supervisor_say("info", "guest %s %s", guest, price(config, guest));
	if (!strcmp(text(config, guest, "engine"), "auto"))
		ft_supervisor_say("info", "guest %s runs on engine %s: %s", guest, choice.kvm ? "kvm" : "soft", choice.why);
	return 0;
}

/* Which processor a guest that boots here has. */
static int model_of(const struct ft_engine_choice *choice, struct ft_model *model, struct ft_error *err)
{
	*model = FT_MODEL_SOFTWARE;
	if (!choice->kvm)
		return 0;
	struct ft_model host;
	int error = ft_kvm_host_model(choice->fd, &host, err);
	if (!error && host.vendor[0])
		*model = host;
	return error;
}

static void print_processor(const struct ft_config *config, const char *guest, const struct ft_engine_choice *choice, FILE *file)
{
	struct ft_model model;
	struct ft_error err = {0};
	char words[FT_MODEL_WORDS];
	if (model_of(choice, &model, &err)) {
		fprintf(file, "# guest %s: its processor cannot be told: %s\n", guest, err.text);
		return;
	}
	ft_model_words(&model, words);
	/* Its name is in EBX, EDX, ECX. */
	fprintf(file, "# guest %s has a processor of %.4s%.4s%.4s (CPUID signature %08x)%s, whose TSC counts %u.%03u MHz; it %s\n", guest,
		(const char *)&model.vendor[0], (const char *)&model.vendor[2], (const char *)&model.vendor[1], model.signature,
		strcmp(text(config, guest, "start"), "snapshot") ? "" : " where it boots, and from a snapshot the one it was saved with",
		choice->tsc_khz / 1000, choice->tsc_khz % 1000, words);
	if (!price(config, guest))
		fprintf(file,
			"# guest %s is portable: it can be saved as a snapshot, and goes on on engine soft anywhere, and on kvm where %s; for that it "
			"has no instructions beyond SSE4.2 (no AVX, no AES)\n",
			guest,
			choice->kvm ? "the processor is of this vendor, has the same protection and the same TSC or can scale it"
				    : "the processor can scale the TSC, unprotected from its own programs");
}

void ft_engine_print(const struct ft_config *config, FILE *file)
{
	const char *guest;
	json_t *value;
	bool any = false;
	json_object_foreach((json_t *)ft_config_get(config, "guests"), guest, value)
	{
		struct ft_engine_choice choice;
		struct ft_error err = {0};
		if (ft_engine_choose(config, guest, &choice, &err)) {
			fprintf(file, "# %s\n", err.text);
		} else {
			fprintf(file, "# guest %s runs on engine %s: %s\n", guest, choice.kvm ? "kvm" : "soft", choice.why);
			print_processor(config, guest, &choice, file);
		}
		if (price(config, guest))
			fprintf(file, "# guest %s %s\n", guest, price(config, guest));
		if (choice.fd >= 0)
			close(choice.fd);
		any |= choice.kvm;
	}
	struct ft_error err = {0};
	if (any)
		fprintf(file, "# an exact journal of a guest on kvm would need a counter of the branches that it retires, which this host %s%s\n",
			ft_kvm_host_counter(&err) ? "does not have: " : "has", err.text);
}
