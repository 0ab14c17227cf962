CASE WHEN k.{subject} <> '' AND char_length(k.{subject}) <= 256 AND k.{subject}::text COLLATE "C" !~ '[\u0001-\u001f\u007f-\u009f]'
    THEN jsonb_build_object('external_subject', k.{subject}::text) ELSE '{}' END
