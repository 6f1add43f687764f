"""Lua scripts that run atomically in Redis: exchange records, add missing records, leases and the beat counter."""

from __future__ import annotations

# A record begins with its time, int64 microseconds, little-endian (exact in Lua's numbers until the year 2255), then
# its id, uint32, of which 0 is none.
_RECORDS = """
local function time_of(record) return (struct.unpack('<i8', record)) end
local function push(key, records, first)
    for start = first, #records, 1000 do
        redis.call('RPUSH', key, unpack(records, start, math.min(start + 999, #records)))
    end
end
"""
# KEYS: events and frauds of each visit. ARGV: per visit its record, capacity, seconds to live; empty to read only.
# Records are returned as one string: the client needs a microsecond per element of a list.
EXCHANGE = (
    _RECORDS
    + """
local out = {}
for i = 1, #KEYS / 2 do
    local events = KEYS[2 * i - 1]
    local records = redis.call('LRANGE', events, 0, -1)
    out[2 * i - 1] = table.concat(records)
    out[2 * i] = table.concat(redis.call('ZRANGE', KEYS[2 * i], 0, -1))
    if #ARGV > 0 then
        local record, capacity = ARGV[3 * i - 2], tonumber(ARGV[3 * i - 1])
        local slot, time = #records, time_of(record)
        while slot > 0 and time_of(records[slot]) > time do slot = slot - 1 end
        if slot == 0 then redis.call('DEL', events)
        elseif slot < #records then redis.call('LTRIM', events, 0, slot - 1) end
        redis.call('RPUSH', events, record)
        push(events, records, slot + 1)
        if #records + 1 > capacity then redis.call('LTRIM', events, -capacity, -1) end
        redis.call('EXPIRE', events, ARGV[3 * i])
    end
end
return out
"""
)
# Adds missing records. KEYS: events, frauds of each entity. ARGV: record size, capacity, time to live (s), fraud limit,
# 1 with events or 0 with frauds only; then per entity its events, oldest first, and its frauds, as strings. At equal
# times the added events come first. Returns per entity whether it changed, or its number of new frauds.
ENTER = (
    _RECORDS
    + """
local width, capacity, life, most = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local out = {}
for i = 1, #KEYS / 2 do
    local events, frauds, blob, changed = KEYS[2 * i - 1], KEYS[2 * i], ARGV[2 * i + 4], 0
    local stored, known, new = redis.call('LRANGE', events, 0, -1), {}, {}
    if #blob == 0 then stored = {} end
    for _, record in ipairs(stored) do
        local id = string.sub(record, 9, 12)
        known[id == '\\0\\0\\0\\0' and record or id] = true
    end
    for start = 1, #blob, width do
        local record = string.sub(blob, start, start + width - 1)
        local id = string.sub(record, 9, 12)
        if not known[id == '\\0\\0\\0\\0' and record or id] then new[#new + 1] = record end
    end
    if #new > 0 then
        local merged, k = {}, 1
        for _, record in ipairs(stored) do
            while k <= #new and time_of(new[k]) <= time_of(record) do
                merged[#merged + 1] = new[k]
                k = k + 1
            end
            merged[#merged + 1] = record
        end
        for rest = k, #new do merged[#merged + 1] = new[rest] end
        redis.call('DEL', events)
        push(events, merged, math.max(1, #merged - capacity + 1))
        redis.call('EXPIRE', events, life)
        changed = 1
    end
    blob = ARGV[2 * i + 5]
    for start = 1, #blob, 12 do
        local record = string.sub(blob, start, start + 11)
        local added = redis.call('ZADD', frauds, time_of(record), record)
        changed = ARGV[5] == '1' and math.max(changed, added) or changed + added
    end
    if #blob > 0 then
        redis.call('ZREMRANGEBYRANK', frauds, 0, -most - 1)
        redis.call('EXPIRE', frauds, life)
    end
    out[i] = changed
end
return out
"""
)
# Acquires or renews a lease. KEYS: the lease. ARGV: caller's token, milliseconds. Returns 1 if the caller holds it.
LEASE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end return 1"
# Increments a counter. KEYS: counter. ARGV: the caller's last value. Returns the old value; the new one exceeds both.
BEAT = """
local beat = tonumber(redis.call('GET', KEYS[1]) or '0')
redis.call('SET', KEYS[1], string.format('%.0f', math.max(beat, tonumber(ARGV[1])) + 1))
return beat
"""
# Stores and returns the larger of KEYS[1] and ARGV[1], as text because Lua numbers would round it.
LARGEST = """
local known = redis.call('GET', KEYS[1])
if not known or tonumber(known) < tonumber(ARGV[1]) then
    redis.call('SET', KEYS[1], ARGV[1])
    return ARGV[1]
end
return known
"""
