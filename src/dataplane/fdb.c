#include "dataplane/fdb.h"

#include <errno.h>
#include <string.h>

#include "dataplane/frame.h"

#define TYPE_VLAN 0x8100u
#define TYPE_QINQ 0x88a8u
#define TAG       4u

static uint64_t segment(unsigned uplink, unsigned vlan)
{
	return (uint64_t)uplink << 60 | (uint64_t)vlan << 48;
}

static uint64_t place(unsigned uplink, unsigned vlan, const uint8_t *mac)
{
	return segment(uplink, vlan) | (uint64_t)ft_load16(mac) << 32 | ft_load32(mac + 2);
}

static unsigned vlan_of(uint64_t place)
{
	return place >> 48 & 0xfff;
}

static uint64_t mac_of(uint64_t place)
{
	return place & 0xffffffffffffull;
}

static bool same_frames(uint64_t a, uint64_t b)
{
	bool one_vlan = vlan_of(a) == vlan_of(b) || vlan_of(a) == FT_FDB_TRUNK || vlan_of(b) == FT_FDB_TRUNK;
	return a >> 60 == b >> 60 && one_vlan;
}

int ft_fdb_add(struct ft_fdb *fdb, unsigned uplink, unsigned vlan, const uint8_t *mac, struct ft_error *err)
{
	static const uint8_t none[6];
	if (fdb->count == FT_GATE_GUESTS)
		return ft_error_set(err, -EINVAL, "more than %u guests", FT_GATE_GUESTS);
	if (uplink >= FT_GATE_UPLINKS || (vlan > FT_FDB_VLANS && vlan != FT_FDB_TRUNK))
		return ft_error_set(err, -EINVAL, "uplink or VLAN out of range");
	uint64_t new = place(uplink, vlan, mac ? mac : none);
	for (unsigned i = 0; i < fdb->count; i++) {
		uint64_t old = fdb->places[i];
		if (!same_frames(old, new))
			continue;
		if (mac_of(old) == mac_of(new))
			return ft_error_set(err, -EINVAL, "two guests with one MAC address in one VLAN");
		if (!mac_of(old) || !mac_of(new))
			return ft_error_set(err, -EINVAL,
					    "a guest without MAC address is not alone in its VLAN");
	}
	fdb->places[fdb->count++] = new;
	fdb->special |= vlan == FT_FDB_TRUNK || !mac_of(new);
	return 0;
}

static int find(const struct ft_fdb *fdb, uint64_t place)
{
	for (unsigned i = 0; i < fdb->count; i++)
		if (fdb->places[i] == place)
			return (int)i;
	return -1;
}

int ft_fdb_find(const struct ft_fdb *fdb, unsigned uplink, unsigned vlan, const uint8_t *mac)
{
	int at = find(fdb, place(uplink, vlan, mac));
	if (at >= 0 || !fdb->special)
		return at;
	at = find(fdb, segment(uplink, vlan));
	if (at < 0)
		at = find(fdb, place(uplink, FT_FDB_TRUNK, mac));
	return at < 0 ? find(fdb, segment(uplink, FT_FDB_TRUNK)) : at;
}

bool ft_fdb_member(const struct ft_fdb *fdb, unsigned guest, unsigned uplink, unsigned vlan)
{
	uint64_t place = fdb->places[guest];
	return place >> 60 == uplink && (vlan_of(place) == vlan || vlan_of(place) == FT_FDB_TRUNK);
}

unsigned ft_fdb_vlan(const uint8_t *frame, size_t length)
{
	uint16_t type = ft_load16(frame + 12);
	if (type == TYPE_QINQ)
		return FT_FDB_TRUNK;
	if (type != TYPE_VLAN || length < FT_FRAME_HEADER + TAG)
		return FT_FDB_UNTAGGED;
	uint16_t inner = ft_load16(frame + 12 + TAG);
	if (inner == TYPE_VLAN || inner == TYPE_QINQ)
		return FT_FDB_TRUNK;
	return ft_load16(frame + 14) & 0xfff; /* number 0: a priority, and no VLAN */
}

uint8_t *ft_fdb_untag(uint8_t *frame, size_t *length)
{
	if (ft_load16(frame + 12) != TYPE_VLAN || *length < FT_FRAME_HEADER + TAG)
		return frame;
	memmove(frame + TAG, frame, 12);
	*length -= TAG;
	return frame + TAG;
}

uint8_t *ft_fdb_tag(uint8_t *frame, size_t *length, unsigned vlan)
{
	memmove(frame - TAG, frame, 12);
	frame -= TAG;
	ft_store16(frame + 12, TYPE_VLAN);
	ft_store16(frame + 14, (uint16_t)vlan);
	*length += TAG;
	return frame;
}
