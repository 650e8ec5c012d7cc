#include "dataplane/suppress.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "10.0.0.0/8", "fd00::/64", or one address. */
static int read_network(const char *text, struct ft_suppression *to)
{
	char copy[INET6_ADDRSTRLEN + 8];
	unsigned char bytes[16];
	if (snprintf(copy, sizeof(copy), "%s", text) >= (int)sizeof(copy))
		return -EINVAL;
	char *slash = strchr(copy, '/'), *end = copy;
	if (slash)
		*slash = 0;
	bool four = inet_pton(AF_INET, copy, bytes) == 1;
	if (!four && inet_pton(AF_INET6, copy, bytes) != 1)
		return -EINVAL;
	unsigned most = four ? 32 : 128;
	unsigned long prefix = slash ? strtoul(slash + 1, &end, 10) : most;
	if (prefix > most || (slash && (!slash[1] || *end)))
		return -EINVAL;
	to->has_network = true;
	to->network = four ? ft_address_v4(bytes) : ft_address_v6(bytes);
	to->prefix = (unsigned)prefix + (four ? 96 : 0);
	return 0;
}

static int load_one(const json_t *entry, struct ft_suppression *to, struct ft_error *err)
{
	const json_t *id = json_object_get(entry, "id"), *sid = json_object_get(entry, "sid"),
		     *until = json_object_get(entry, "until_ns");
	const char *network = json_string_value(json_object_get(entry, "network"));
	const char *service = json_string_value(json_object_get(entry, "service"));
	json_int_t number = json_integer_value(sid);
	if (!json_is_integer(id) || json_integer_value(id) <= 0 || !json_is_integer(until) || number < 0 ||
	    number > UINT32_MAX || (service && strlen(service) >= sizeof(to->service)))
		return ft_error_set(err, -EINVAL, "a suppression without id or until_ns, or with no sid");
	if (!number && !network && !service)
		return ft_error_set(err, -EINVAL, "a suppression of everything");
	*to = (struct ft_suppression){.id = (uint64_t)json_integer_value(id),
				      .sid = (uint32_t)number,
				      .until = (uint64_t)json_integer_value(until)};
	if (network && read_network(network, to))
		return ft_error_set(err, -EINVAL, "\"%.60s\" is no network", network);
	snprintf(to->service, sizeof(to->service), "%s", service ? service : "");
	to->entry = json_deep_copy(entry);
	return to->entry ? 0 : -ENOMEM;
}

int ft_suppressions_load(struct ft_suppressions *suppressions, const json_t *entries, struct ft_error *err)
{
	size_t count = json_array_size(entries);
	struct ft_suppressions made = {calloc(count + 1, sizeof(*made.list)), 0};
	int error = !made.list ? -ENOMEM
		    : count > FT_SUPPRESSIONS
			? ft_error_set(err, -E2BIG, "more than %u suppressions", FT_SUPPRESSIONS)
			: 0;
	for (size_t i = 0; i < count && !error; i++) {
		struct ft_suppression *one = &made.list[i];
		error = load_one(json_array_get(entries, i), one, err);
		made.count += !error;
		for (size_t k = 0; k < suppressions->count && !error; k++)
			if (suppressions->list[k].id == one->id)
				one->hits = suppressions->list[k].hits;
	}
	if (error) {
		ft_suppressions_free(&made);
		return error;
	}
	ft_suppressions_free(suppressions);
	*suppressions = made;
	return 0;
}

void ft_suppressions_free(struct ft_suppressions *suppressions)
{
	for (size_t i = 0; i < suppressions->count; i++)
		json_decref(suppressions->list[i].entry);
	free(suppressions->list);
	*suppressions = (struct ft_suppressions){0};
}

static bool is_in(const struct ft_suppression *one, const struct ft_address *client)
{
	unsigned bytes = one->prefix / 8, bits = one->prefix % 8;
	if (memcmp(one->network.bytes, client->bytes, bytes))
		return false;
	return !bits || !((one->network.bytes[bytes] ^ client->bytes[bytes]) >> (8 - bits));
}

struct ft_suppression *ft_suppressions_find(const struct ft_suppressions *suppressions, uint32_t sid,
					    const struct ft_address *client, const char *service,
					    uint64_t wall)
{
	for (size_t i = 0; i < suppressions->count; i++) {
		struct ft_suppression *one = &suppressions->list[i];
		if (wall < one->until && (!one->sid || one->sid == sid) &&
		    (!*one->service || !strcmp(one->service, service)) &&
		    (!one->has_network || is_in(one, client)))
			return one;
	}
	return NULL;
}

json_t *ft_suppressions_list(const struct ft_suppressions *suppressions)
{
	json_t *list = json_array();
	for (size_t i = 0; i < suppressions->count; i++) {
		json_t *entry = json_copy(suppressions->list[i].entry);
		json_object_set_new(entry, "hits", json_integer((json_int_t)suppressions->list[i].hits));
		json_array_append_new(list, entry);
	}
	return list;
}
