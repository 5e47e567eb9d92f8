-- What was authenticated by the key before still counts, until there is another one.
ALTER TABLE feed ADD COLUMN mac_key_before BLOB CHECK (length(mac_key_before) = 32);
