#include "vmm/state/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/state/format.h"

static int check_portable(const struct ft_machine *m, const char *what, struct ft_error *err)
{
	return m->native ? ft_error_set(err, -ENOTSUP, "the guest has this host's own processor (portable: false): its state cannot be %s", what)
			 : 0;
}

int ft_state_save(struct ft_machine *m, uint8_t **bytes, size_t *length, struct ft_error *err)
{
	if (check_portable(m, "saved", err))
		return err->code;
	if (m->reset)
		return ft_error_set(err, -EBUSY, "the guest is being reset or switched off: it has no state to save");
	struct ft_state *s = malloc(sizeof(*s));
	if (!s)
		return ft_error_set(err, -ENOMEM, "no memory for the machine's state");
	int error = ft_state_take(s, m, err);
	/* What could not be restored must not be taken for a saved guest. */
	if (!error)
		error = ft_state_check(s, m, err);
	if (!error)
		error = ft_state_encode(s, bytes, length, err);
	free(s->net_owned);
	free(s);
	return error;
}

int ft_state_restore(struct ft_machine *m, const void *bytes, size_t length, struct ft_error *err)
{
	if (check_portable(m, "one that was saved", err))
		return err->code;
	struct ft_state *s = malloc(sizeof(*s));
	if (!s)
		return ft_error_set(err, -ENOMEM, "no memory for the machine's state");
	int error = ft_state_decode(s, bytes, length, err);
	if (!error)
		error = ft_state_check(s, m, err);
	if (!error)
		error = ft_state_give(s, m, err);
	free(s);
	return error;
}

int ft_state_summarise(const void *bytes, size_t length, struct ft_state_summary *summary, struct ft_error *err)
{
	struct ft_state *s = malloc(sizeof(*s));
	struct ft_state_machine host = {0};
	if (!s)
		return ft_error_set(err, -ENOMEM, "no memory for the machine's state");
	int error = ft_state_decode(s, bytes, length, err);
	if (!error && !s->present[FT_STATE_MACHINE])
		error = ft_error_set(err, -EINVAL, "machine state: machine: is missing");
	if (!error && !s->present[FT_STATE_CLOCK])
		error = ft_error_set(err, -EINVAL, "machine state: clock: is missing");
	if (!error && s->machine.engine[sizeof(s->machine.engine) - 1])
		error = ft_state_refuse(err, 0, "not terminated", "machine.engine");
	if (!error) {
		ft_state_host(&host);
		*summary = (struct ft_state_summary){
		    .memory = s->machine.memory,
		    .disk_size = s->machine.disk_size,
		    .icount = s->clock.icount,
		    .vtime_ns = s->clock.vtime_ns,
		    .same_host = host.host_signature == s->machine.host_signature &&
				 !memcmp(host.host_vendor, s->machine.host_vendor, sizeof(host.host_vendor))};
		memcpy(summary->engine, s->machine.engine, sizeof(summary->engine));
	}
	free(s);
	return error;
}
