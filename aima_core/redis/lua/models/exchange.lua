-- uses: clock
-- Replaces what a host states about its fetch of a model, leases it pieces of the origin, and returns the other hosts.
--
-- A lease has no life of its own: it is part of what its host states, and ends when the host stops stating it, such as
-- after a restart, or states nothing for a while. What the host has leased until now it may keep, whatever its share of
-- the limit has become: a restarted fetch continues with the beginnings of these pieces. A piece whose digest is known
-- was downloaded by a host of the site, and is leased again only where the caller says that no live host serves it.
-- A host that uploads as many pieces as it may is asked for no further one.
-- Returns {the pieces leased now, those not leased since their digest is known, the numbers of the asked downloads that
-- may begin, the number of leases of others, 1 if the host had stated something before, the names of the other live
-- hosts, name, statement, name, statement, …}: statements of `count` hosts from `first` on.
local members, digests = unpack(KEYS)
local host, counts_for_ms, leased, sources, statement, found, wanted, unserved, asked = unpack(ARGV, 1, 9)
local host_limit, site_limit, downloads_limit, uploads_limit = unpack(ARGV, 10, 13)
local first, count, ttl_ms, digests_ttl_ms = unpack(ARGV, 14, 17)

local now = now_ms()
local others, statements, leased_by_others, leased_before, leases, uploads = {}, {}, {}, {}, 0, {}
local function count_uploads(list)
  local number = 0
  for source in string.gmatch(list, '[^,]+') do
    uploads[source] = (uploads[source] or 0) + 1
    number = number + 1
  end
  return number
end
local was_known = redis.call('HEXISTS', members, host)
local all = redis.call('HGETALL', members)
for at = 1, #all, 2 do
  local name, until_ms, pieces, from, rest = all[at], string.match(all[at + 1], '^(%d+) ([%d,]*) (%S*) (.*)$')
  if not until_ms or tonumber(until_ms) < now then
    redis.call('HDEL', members, name)
  elseif name ~= host then
    table.insert(others, name)
    statements[name] = rest
    count_uploads(from)
    for piece in string.gmatch(pieces, '%d+') do
      leased_by_others[piece] = true
      leases = leases + 1
    end
  else
    for piece in string.gmatch(pieces, '%d+') do leased_before[piece] = true end
  end
end
table.sort(others)

for _, each in ipairs(cjson.decode(found)) do
  local piece, digest, replaces = unpack(each)
  redis.call(replaces and 'HSET' or 'HSETNX', digests, piece, digest)
end

local own, granted, downloaded = {}, {}, {}
for piece in string.gmatch(leased, '%d+') do table.insert(own, piece) end
local share = math.max(1, math.floor(site_limit / (#others + 1)))
local limit = math.min(host_limit, share)
local function lease(pieces, is_unserved)
  for piece in string.gmatch(pieces, '%d+') do
    local is_full = #own >= limit or leases + #own >= tonumber(site_limit)
    if is_full and not leased_before[piece] then return end
    local is_downloaded = not is_unserved and redis.call('HEXISTS', digests, piece) == 1
    local is_free = not leased_by_others[piece] -- a lease lasts until its host states the piece
    if is_free then table.insert(is_downloaded and downloaded or granted, piece) end
    if is_free and not is_downloaded then table.insert(own, piece) end
  end
end
if was_known == 1 then -- else others may have stated nothing yet, as after a loss of data
  lease(unserved, true)
  lease(wanted, false)
end

local downloads, begun, own_downloads = count_uploads(sources), {}, {}
for source in string.gmatch(sources, '[^,]+') do own_downloads[source] = (own_downloads[source] or 0) + 1 end
local each_limit = math.max(1, math.floor(uploads_limit / (#others + 1))) -- so that its pieces reach several hosts
for number, source in ipairs(cjson.decode(asked)) do
  local is_free = (uploads[source] or 0) < tonumber(uploads_limit) and (own_downloads[source] or 0) < each_limit
  if is_free and downloads < tonumber(downloads_limit) then
    downloads = downloads + count_uploads(source)
    own_downloads[source] = (own_downloads[source] or 0) + 1
    sources = sources .. ',' .. source
    table.insert(begun, number - 1)
  end
end

local summary = string.format('%d %s %s ', now + counts_for_ms, table.concat(own, ','), sources)
redis.call('HSET', members, host, summary .. statement)
redis.call('PEXPIRE', members, ttl_ms)
redis.call('PEXPIRE', digests, digests_ttl_ms)

local reply = {
  table.concat(granted, ','), table.concat(downloaded, ','), table.concat(begun, ','),
  leases, was_known, table.concat(others, ','),
}
for step = 1, math.min(tonumber(count), #others) do
  local name = others[(first + step - 1) % #others + 1]
  table.insert(reply, name)
  table.insert(reply, statements[name])
end
return reply
