coalesce({account} <> '' AND char_length({account}) <= 255 AND {account} !~ '[\u0001-\u001f\u007f-\u009f]', false)
