//! Valid outer layers of a file, around the input of a target.

/// The pickle of `{"w": tensor of four floats in storage 0}`.
pub const STATE: &[u8] = b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n\
X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQK\x00K\x04\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRs.";

/// A zip archive of stored entries.
pub fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let header = (bytes.len() as u32).to_le_bytes();
        let size = (content.len() as u32).to_le_bytes();
        let length = (name.len() as u16).to_le_bytes();
        // Version, flags, method, time, date and checksum, which the reader ignores.
        let common = [&[0; 14], &size[..], &size, &length, &[0; 2]].concat();
        bytes.extend([b"PK\x03\x04", &common[..], name.as_bytes(), content].concat());
        directory.extend([b"PK\x01\x02\0\0", &common[..], &[0; 10], &header, name.as_bytes()].concat());
    }
    let (start, count) = ((bytes.len() as u32).to_le_bytes(), (entries.len() as u16).to_le_bytes());
    let size = (directory.len() as u32).to_le_bytes();
    bytes.extend(directory);
    bytes.extend([b"PK\x05\x06\0\0\0\0", &count[..], &count, &size, &start, &[0; 2]].concat());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outer_layers_are_valid() {
        let file = zip(&[("x/data.pkl", STATE), ("x/data/0", &[1; 16])]);
        assert_eq!(clip_model::Checkpoint::from_bytes(&file).unwrap().weights["w"].size(), [4]);
    }
}
