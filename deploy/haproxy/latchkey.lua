-- Asks latchkey whether a request may pass. docs/gateways/haproxy.md
--
--     http-request lua.latchkey scope=memory:read     what the request needs
--     http-request lua.latchkey rules                 the policy's rules say what it needs
--
-- It says `allowed` in the variable txn.latchkey, or answers the client, or does neither: the configuration denies
-- whatever is not allowed.

local url = "http://127.0.0.1:8080/v1/forward-auth"
local timeout_ms = 250 -- of each of the four times that HAProxy tries
local credentials = { "authorization", "x-api-key" }
local identity = {
    "x-latchkey-account-id", "x-latchkey-key-id", "x-latchkey-environment",
    "x-latchkey-scopes", "x-latchkey-plan", "x-latchkey-billable",
}
local refusals = { [401] = true, [403] = true, [429] = true }

-- Tables of HAProxy begin at 0, those of its client at 1.
local function values(headers, name)
    local list = {}
    for _, value in pairs(headers[name] or {}) do list[#list + 1] = value end
    return #list > 0 and list or nil
end

-- Nothing else of what the client says goes to latchkey.
local function question(txn, needs)
    local sent = txn.http:req_get_headers()
    local asked = { ["x-forwarded-for"] = { txn.sf:src() } } -- security: for keys that are bound to networks
    for _, name in ipairs(credentials) do asked[name] = values(sent, name) end
    if needs ~= "rules" then return url .. "?" .. needs, asked end
    asked["x-forwarded-method"] = { txn.sf:method() } -- security: what the rules go by
    asked["x-forwarded-host"] = values(sent, "host") -- security: what the rules go by
    asked["x-forwarded-uri"] = { txn.sf:pathq() } -- security: what the rules go by
    return url, asked
end

local function latchkey(txn, needs)
    local address, asked = question(txn, needs)
    local answer = core.httpclient():get{ url = address, headers = asked, timeout = timeout_ms }
    if refusals[answer.status] then
        local reply = txn:reply{ status = answer.status, body = answer.body }
        for _, name in ipairs{ "content-type", "cache-control", "www-authenticate", "retry-after" } do
            for _, value in ipairs(values(answer.headers, name) or {}) do reply:add_header(name, value) end
        end
        txn:done(reply)
    end
    if answer.status ~= 200 then return end -- security: what cannot be decided is not allowed
    for _, name in ipairs(identity) do
        local value = (values(answer.headers, name) or { "" })[1]
        if value ~= "" then txn.http:req_set_header(name, value) end
    end
    for _, name in ipairs(credentials) do txn.http:req_del_header(name) end -- security: the upstream is told no secret
    txn:set_var("txn.latchkey", "allowed")
end

core.register_action("latchkey", { "http-req" }, latchkey, 1)
